"""A login under way, and how it failed, for the operator.

A login begins with a client's ``<auth/>``, ``<authenticate/>`` or XEP-0078 request, is *proved* when the node has
accepted that, and is over when the stream is bound. The user is the one that the client claims to be, which is what
operators need to know of a login that failed. Nothing but names is read, so no password ever comes to rest here.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.opening import sasl
from cxfr_proxy.xmpp.opening.header import StreamHeader
from cxfr_proxy.xmpp.opening.sasl import Names, SaslRequest
from cxfr_proxy.xmpp.stanza import Element

IQ_AUTH: Final = "iq-auth"
"""Stands for the mechanism of XEP-0078, which has none."""


class FailedLogin(Struct, frozen=True, gc=False):
    """``user`` is as the client wrote it, with its domain, and need not be a JID; ``None``: it did not say.

    ``condition`` is of SASL (RFC 6120 section 6.5), of a stream error (section 4.9.3) or of a stanza error (section
    8.3.3; to XEP-0078 or bind) as the node wrote it; if it wrote none, it is why the session ended.
    """

    user: str | None
    mechanism: str
    condition: str


class LoginAttempt(Struct, gc=False):
    """``verdict``: the fault that the proxy has found itself, where the node only ends the exchange. ``bind_id``: the
    id of the client's request for a resource."""

    mechanism: str
    user: str | None
    proved: bool = False
    verdict: str | None = None
    bind_id: str | None = None

    def failed(self, condition: str) -> FailedLogin:
        return FailedLogin(self.user, self.mechanism, self.verdict or condition)


def begun(request: SaslRequest, header: StreamHeader) -> LoginAttempt:
    """Return the attempt that an ``<auth/>`` or ``<authenticate/>`` behind that header begins."""
    return LoginAttempt(request.mechanism, _user_of(request.names, header) or header.from_)


def begun_by_iq(user: str, domain: str) -> LoginAttempt:
    """Return the attempt that a request of XEP-0078 begins."""
    return LoginAttempt(IQ_AUTH, _whole(user, domain))


def note_response(attempt: LoginAttempt, response: Element, header: StreamHeader) -> None:
    """Look for the name in a ``<response/>``: in some exchanges it comes only there."""
    row = sasl.mechanism_named(attempt.mechanism)
    try:
        said = sasl.message(response) if row is not None else None
        found = row.read(said) if row is not None and said is not None else None
    except sasl.Unreadable:
        return
    attempt.user = _user_of(found, header) or attempt.user


def _user_of(found: Names | None, header: StreamHeader) -> str | None:
    """Return the authentication identity or, if there is none, the authorization identity."""
    name = (found.authcid or found.authzid) if found is not None else ""
    return _whole(name, header.to or "") if name else None


def _whole(name: str, domain: str) -> str:
    return name if "@" in name else f"{name}@{domain}"


def sasl_condition(failure: Element) -> str:
    """Return the condition in SASL's or SASL2's ``<failure/>``."""
    return _condition(failure, names.SASL)


def stanza_condition(answer: Element) -> str:
    """Return the condition in an IQ of type ``error``."""
    error = stanza.child(answer, names.CLIENT, "error")
    return _condition(error, names.STANZA_ERRORS) if error is not None else StreamCondition.UNDEFINED_CONDITION


def _condition(element: Element, namespace: str) -> str:
    for part in element.iterchildren(stanza.qualified(namespace, "*")):
        _, local = stanza.name_of(part)
        if local != "text":
            return local
    return StreamCondition.UNDEFINED_CONDITION
