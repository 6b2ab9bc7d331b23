"""Read what clients say about themselves in passing: capabilities (XEP-0115), user agent (XEP-0388), usual words.

It is hearsay and kept short: :data:`LONGEST` characters of each name. Many clients say the same, so equal texts are one
object.
"""

from __future__ import annotations

import sys
from typing import Final

from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.stanza import Element

LONGEST: Final = 256
_CAPS: Final = names.CAPS.encode()


def may_have_caps(data: bytes) -> bool:
    """Return whether it is worth parsing for :func:`caps`. No client spells the namespace in character references."""
    return _CAPS in data


def caps(presence: Element) -> str | None:
    """Return ``node#ver`` of the capabilities (XEP-0115 section 4); ``None`` if either is missing."""
    said = stanza.child(presence, names.CAPS, "c")
    node, ver = (said.get("node"), said.get("ver")) if said is not None else (None, None)
    return sys.intern(f"{node[:LONGEST]}#{ver[:LONGEST]}") if node and ver else None


def agent(authenticate: Element) -> str | None:
    """Return the software of a SASL2 user agent (XEP-0388 section 2.3.1), which clients needn't tell."""
    said = stanza.child(authenticate, names.SASL2, "user-agent")
    return words(said.findtext(stanza.qualified(names.SASL2, "software")) if said is not None else None)


def words(said: str | None) -> str | None:
    """Return the text as an object shared by all clients that say the same; ``None`` for nothing."""
    return sys.intern(said[:LONGEST]) if said else None
