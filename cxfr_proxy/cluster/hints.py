"""Hints of ``check`` about nodes whose lines are right: what their listeners need besides, and what a choice costs.
The file does not show it, and the first sign of it is a client that works less well than it could."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cxfr_proxy.cluster.nodes import NodeSpec, NodeTls

_SHOWN: Final = 5
"""Names in a line; all nodes of a large cluster would hide the hint."""


@dataclass(frozen=True, slots=True)
class Hint:
    """A hint. ``concerns`` tells the nodes for which ``text`` is true."""

    concerns: Callable[[NodeSpec], bool]
    text: str


HINTS: Final = (
    Hint(
        lambda spec: spec.tls is NodeTls.NONE,
        "plain leg: ejabberd offers SASL2, Bind 2 and FAST there only with allow_unencrypted_sasl2: true on the "
        "listener, and FAST only with mod_auth_fast. If it stores plaintext passwords, set disable_sasl_mechanisms: "
        "[digest-md5], or its hash of the list of mechanisms (XEP-0474) won't match the list that clients see. "
        "Prosody offers them with c2s_require_encryption = false, MongooseIM on TLS legs only",
    ),
    Hint(
        lambda spec: spec.tls is not NodeTls.NONE,
        "TLS leg: the node offers channel binding, which can't pass the proxy. ejabberd and Prosody refuse clients "
        "that say they could have used it (y,, in SCRAM), and clients that check ejabberd's list of mechanisms "
        "(XEP-0474) refuse to log in. On a plain leg both can log in",
    ),
    Hint(
        lambda spec: spec.send_proxy is not None,
        "send-proxy=: the node's listener has to expect it (ejabberd: use_proxy_protocol: true; Prosody: net_proxy, "
        "whose port listens on every address unless proxy_interfaces says otherwise)",
    ),
)


def hints(specs: Sequence[NodeSpec]) -> list[str]:
    """Return a line for each hint that concerns some of these nodes, with their names."""
    found = []
    for hint in HINTS:
        concerned = [spec.name for spec in specs if hint.concerns(spec)]
        if concerned:
            more = f" and {len(concerned) - _SHOWN} more" if len(concerned) > _SHOWN else ""
            found.append(f"note: {', '.join(concerned[:_SHOWN])}{more}: {hint.text}")
    return found
