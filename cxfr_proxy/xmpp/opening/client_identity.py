"""What a client says about itself in passing: its capabilities (XEP-0115), its user agent (XEP-0388), its usual words.

Hearsay, kept short: :data:`LONGEST` characters of each name. Many clients say the same, so it is one object for all.
"""

from __future__ import annotations

import sys
from typing import Final

from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.stanza import Element

LONGEST: Final = 256
_CAPS: Final = names.CAPS.encode()


def may_have_caps(data: bytes) -> bool:
    """Return whether it is worth parsing for :func:`caps`. Nobody spells the namespace in character references."""
    return _CAPS in data


def caps(presence: Element) -> str | None:
    """Return ``node#ver`` of the capabilities (XEP-0115 section 4); ``None`` where it says neither or only one."""
    said = stanza.child(presence, names.CAPS, "c")
    node, ver = (said.get("node"), said.get("ver")) if said is not None else (None, None)
    return sys.intern(f"{node[:LONGEST]}#{ver[:LONGEST]}") if node and ver else None


def agent(authenticate: Element) -> str | None:
    """Return the software of a SASL2 user agent (XEP-0388 section 2.3.1), which clients needn't tell."""
    said = stanza.child(authenticate, names.SASL2, "user-agent")
    return words(said.findtext(stanza.qualified(names.SASL2, "software")) if said is not None else None)


def words(said: str | None) -> str | None:
    """Return one object for what many clients say alike; ``None`` for nothing."""
    return sys.intern(said[:LONGEST]) if said else None
