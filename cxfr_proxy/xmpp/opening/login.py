"""Read who logs in: a client's first SASL element says where its session belongs.

This is a hint and no proof, like everything that is said before the node has judged it: it chooses a node, nothing
else. A message that can't be read names nobody and is no error here, since the node, or the check of the authorization
identity, answers it. Nothing but names is read, so no password ever comes to rest here.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from cxfr_proxy.spellings import domain_key, user_key
from cxfr_proxy.xmpp import jid, names, stanza
from cxfr_proxy.xmpp.opening import sasl
from cxfr_proxy.xmpp.opening.header import StreamHeader
from cxfr_proxy.xmpp.opening.sasl import Names, SaslRequest
from cxfr_proxy.xmpp.stanza import Element


class Login(Struct, frozen=True, gc=False):
    """``user`` is a bare JID, in the one spelling of :func:`~cxfr_proxy.spellings.user_key`. ``previd`` is the session
    that the client wants to resume at once (XEP-0198 inside SASL2), by the id it has. ``None``: the client does not
    say."""

    user: str | None = None
    previd: str | None = None


class ReadLogin(Struct, frozen=True, gc=False):
    """An ``<auth/>`` that was read before there was a node, and the login that it begins."""

    request: SaslRequest
    login: Login


UNKNOWN: Final = Login()
_LOGINS: Final = ((names.SASL, "auth"), (names.SASL2, "authenticate"))


def named_by(header: StreamHeader) -> Login | None:
    """Return the user that a header names by ``from`` (RFC 6120 section 4.7.1); ``None``: none of the domain that it
    asks for."""
    if header.from_ is None:
        return None
    try:
        user = jid.split(header.from_)
    except jid.JidError:
        return None
    if user.local is None or domain_key(user.domain) != domain_key(header.to or ""):
        return None
    return Login(user_key(f"{user.local}@{user.domain}"))


def read_login(element: Element, domain: str) -> Login:
    """Return the login that begins with the first element behind the client's header; :data:`UNKNOWN` if it is none."""
    if stanza.name_of(element) in _LOGINS:
        return login_of(sasl.read_request(element), domain)
    return UNKNOWN


def login_of(request: SaslRequest, domain: str) -> Login:
    """Return the login of that request to that domain."""
    return Login(_user(request.names, domain), request.previd)


def _user(named: Names | None, domain: str) -> str | None:
    name = (named.authzid or named.authcid) if named is not None else ""
    try:
        return user_key(jid.bare(name if "@" in name else f"{name}@{domain}")) if name else None
    except jid.JidError:
        return None
