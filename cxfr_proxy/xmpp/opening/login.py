"""Who logs in: what a client's first SASL element says about where its session belongs.

A hint and no proof, as all that is said before the node has judged it: it chooses a node, nothing else. What can't be
read names nobody and is no error here, since the node, or the check of the authorization identity, answers it.
Names are read and nothing besides, so no password ever comes to rest here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cxfr_proxy.spellings import domain_key, user_key
from cxfr_proxy.xmpp import jid, names, stanza
from cxfr_proxy.xmpp.opening import sasl
from cxfr_proxy.xmpp.opening.header import StreamHeader
from cxfr_proxy.xmpp.stanza import Element


@dataclass(frozen=True, slots=True)
class Login:
    """``user`` is a bare JID, in the one spelling of :func:`~cxfr_proxy.spellings.user_key`. ``previd`` is the session
    that the client wants to resume at once (XEP-0198 inside SASL2), by the id it has. ``None``: it does not say."""

    user: str | None = None
    previd: str | None = None


UNKNOWN: Final = Login()


def named_by(header: StreamHeader) -> Login | None:
    """What a client's header says about it by ``from`` (RFC 6120 section 4.7.1); ``None``: no user of its domain."""
    try:
        user = jid.split(header.from_ or "")
    except jid.JidError:
        return None
    if user.local is None or domain_key(user.domain) != domain_key(header.to or ""):
        return None
    return Login(user_key(f"{user.local}@{user.domain}"))


def read_login(element: Element, domain: str) -> Login:
    """Of the first element behind the client's header, or of a later attempt; :data:`UNKNOWN` where it is another."""
    match stanza.name_of(element):
        case names.SASL, "auth":
            return Login(_user(element, domain))
        case names.SASL2, "authenticate":
            return Login(_user(element, domain), _previd(element))
        case _:
            return UNKNOWN


def _user(element: Element, domain: str) -> str | None:
    mechanism = sasl.mechanism_of(element)
    if mechanism is None:
        return None
    try:
        holder = sasl.initial_response(element)
        said = sasl.message(holder) if holder is not None else None
        named = mechanism.read(said) if said is not None else None
        name = (named.authzid or named.authcid) if named is not None else ""
        return user_key(jid.bare(name if "@" in name else f"{name}@{domain}"))
    except (sasl.Unreadable, jid.JidError):
        return None


def _previd(authenticate: Element) -> str | None:
    for namespace in (names.SM, names.SM2):
        resume = stanza.child(authenticate, namespace, "resume")
        if resume is not None:
            return resume.get("previd") or None
    return None
