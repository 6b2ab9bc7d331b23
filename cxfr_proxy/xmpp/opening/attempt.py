"""A login under way, and how it failed: what an operator is told of it.

It begins with a client's ``<auth/>``, ``<authenticate/>`` or XEP-0078 request, is *proved* when the node has accepted
that, and is over when the stream is bound. Who logs in is what the client says of itself: a claim, which is what has to
be known of a login that failed. Names are read and nothing besides, so no password ever comes to rest here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.opening import sasl
from cxfr_proxy.xmpp.opening.header import StreamHeader
from cxfr_proxy.xmpp.stanza import Element

IQ_AUTH: Final = "iq-auth"
"""Stands for a mechanism where there is none: XEP-0078."""


@dataclass(frozen=True, slots=True)
class FailedLogin:
    """``user`` is as the client said it, with its domain, and need not be a JID; ``None``: it did not say.

    ``condition``: of SASL (RFC 6120 section 6.5), of a stream error (section 4.9.3) or of a stanza error (section
    8.3.3; to XEP-0078 or bind) as the node said it; where nothing was said, why the session ended.
    """

    user: str | None
    mechanism: str
    condition: str


@dataclass(slots=True)
class Attempt:
    """``verdict``: what is wrong with it, where the proxy has found that itself and the node only ends the exchange.
    ``bind_id``: of the client's request for a resource."""

    mechanism: str
    user: str | None
    proved: bool = False
    verdict: str | None = None
    bind_id: str | None = None

    def failed(self, condition: str) -> FailedLogin:
        return FailedLogin(self.user, self.mechanism, self.verdict or condition)


def begun(element: Element, header: StreamHeader) -> Attempt:
    """By an ``<auth/>`` or ``<authenticate/>`` behind that header."""
    try:
        holder = sasl.initial_response(element)
    except sasl.Unreadable:
        holder = None
    mechanism = element.get("mechanism", "").strip().upper()
    return Attempt(mechanism, _named(mechanism, holder, header) or header.from_)


def begun_by_iq(user: str, domain: str) -> Attempt:
    """By XEP-0078."""
    return Attempt(IQ_AUTH, _whole(user, domain))


def note_response(attempt: Attempt, response: Element, header: StreamHeader) -> None:
    """In some exchanges the name comes only there."""
    attempt.user = _named(attempt.mechanism, response, header) or attempt.user


def _named(mechanism: str, holder: Element | None, header: StreamHeader) -> str | None:
    """Whose password it is, before who to act as."""
    row = sasl.mechanism_named(mechanism)
    try:
        said = sasl.message(holder) if holder is not None and row is not None else None
        found = row.read(said) if said is not None and row is not None else None
    except sasl.Unreadable:
        return None
    name = found.authcid or found.authzid if found is not None else ""
    return _whole(name, header.to or "") if name else None


def _whole(name: str, domain: str) -> str:
    return name if "@" in name else f"{name}@{domain}"


def sasl_condition(failure: Element) -> str:
    """Of SASL's or SASL2's ``<failure/>``."""
    return _condition(failure, names.SASL)


def stanza_condition(answer: Element) -> str:
    """Of an IQ of type ``error``."""
    error = stanza.child(answer, names.CLIENT, "error")
    return _condition(error, names.STANZA_ERRORS) if error is not None else StreamCondition.UNDEFINED_CONDITION


def _condition(element: Element, namespace: str) -> str:
    for part in element.iterchildren(stanza.qualified(namespace, "*")):
        _, local = stanza.name_of(part)
        if local != "text":
            return local
    return StreamCondition.UNDEFINED_CONDITION
