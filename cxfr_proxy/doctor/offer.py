"""Read a node's stream features as a client that wants to log in reads them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Final

from cxfr_proxy.doctor.software import ServerSoftware
from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.opening import features
from cxfr_proxy.xmpp.stanza import Element, qualified

_MOST_NAMES: Final = 64
"""Most mechanisms, or types of channel binding, that are read of a list: servers have a dozen."""

BIND2: Final = "Bind 2"
FAST: Final = "FAST"
INLINE_SM: Final = "stream management inside SASL2"
_INLINE: Final = (
    (qualified(names.BIND2, "bind"), BIND2),
    (qualified(names.FAST, "fast"), FAST),
    (qualified(names.SM, "sm"), INLINE_SM),
)


@dataclass(frozen=True, slots=True)
class Offer:
    """The features of a node before login. ``shown`` are those that the proxy leaves of them, as bytes that stand
    alone; names of mechanisms are in capitals.

    ``inline`` holds the names of what SASL2 can do in one flight, :data:`BIND2` and so on. ``passes``: a login is left
    when the proxy has taken out what cannot work; ``edited``: it takes out mechanisms or types of channel binding.
    ``dead_end`` says what leads to no login, before that.
    """

    shown: bytes = b""
    sasl: frozenset[str] = frozenset()
    sasl2: frozenset[str] = frozenset()
    inline: frozenset[str] = frozenset()
    tokens: frozenset[str] = frozenset()
    bindings: frozenset[str] = frozenset()
    starttls: bool = False
    passes: bool = True
    edited: bool = False
    dead_end: str | None = None
    software: ServerSoftware | None = None

    @property
    def mechanisms(self) -> frozenset[str]:
        """All that are offered, by SASL or SASL2."""
        return self.sasl | self.sasl2

    @property
    def passing(self) -> frozenset[str]:
        """The mechanisms that are left for clients."""
        return frozenset(each for each in self.mechanisms if not features.refusal(each))


def read_offer(offered: Element) -> Offer:
    """Read ``<stream:features/>`` as a node has sent them."""
    authentication = stanza.child(offered, names.SASL2, "authentication")
    inside = stanza.child(authentication, names.SASL2, "inline") if authentication is not None else None
    fast = stanza.child(inside, names.FAST, "fast") if inside is not None else None
    binding = stanza.child(offered, names.CHANNEL_BINDING, "sasl-channel-binding")
    caps = stanza.child(offered, names.CAPS, "c")
    edited = copy.deepcopy(offered)
    features.rewrite(edited)
    features.strip_config_version(edited)
    sasl = _mechanisms(stanza.child(offered, names.SASL, "mechanisms"))
    sasl2 = _mechanisms(authentication)
    types = [each.get("type", "") for each in binding] if binding is not None else []
    refused = any(features.refusal(each) for each in sasl | sasl2)
    return Offer(
        shown=stanza.serialize(edited),
        sasl=sasl,
        sasl2=sasl2,
        inline=frozenset(word for tag, word in _INLINE if inside is not None and inside.find(tag) is not None),
        tokens=_mechanisms(fast),
        bindings=frozenset(types[:_MOST_NAMES]),
        starttls=stanza.child(offered, names.TLS, "starttls") is not None,
        passes=features.offers_login(edited),
        edited=refused or bool(types),
        dead_end=features.dead_end(offered),
        software=ServerSoftware.named(caps.get("node") if caps is not None else None),
    )


def _mechanisms(parent: Element | None) -> frozenset[str]:
    if parent is None:
        return frozenset()
    found = parent.findall(qualified(stanza.name_of(parent)[0] or "", "mechanism"))
    return frozenset((each.text or "").strip().upper() for each in found[:_MOST_NAMES])
