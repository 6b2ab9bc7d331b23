"""The rules: each is a row with a function that finds its fault among the facts.

================ ===================================================================================================
reaching         a node greets a client: address, PROXY header, TLS, domain
certificates     names and dates: the nodes', those at ``public=``, the proxy's own
logins           what clients are offered: the same on all nodes, and what passes a proxy
sessions         what a login shows: resumption, EXTERNAL, tokens, clocks, addresses
queues           room for connections that wait
================ ===================================================================================================
"""

from __future__ import annotations

from typing import Final

from cxfr_proxy.doctor.findings import DoctorRule
from cxfr_proxy.doctor.rules import certificates, logins, queues, reaching, sessions

RULES: Final[tuple[DoctorRule, ...]] = (
    *reaching.RULES,
    *certificates.RULES,
    *logins.RULES,
    *sessions.RULES,
    *queues.RULES,
)
"""All of them, in the order in which findings of one severity are shown."""
