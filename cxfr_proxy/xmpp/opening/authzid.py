"""Check that users log in as themselves: the authorization identity in the SASL messages of a client.

SASL distinguishes whose password it is (authcid) from the user to act as (authzid). XMPP knows one case in which they
differ, an administrator who acts for somebody else, and hardly anybody has it. But a server that forgets to compare
them lets users in as anybody with their own password: ejabberd did, for PLAIN and X-OAUTH2, until 26.07. So the proxy,
which reads these messages anyway (:mod:`.sasl`), compares them itself.

*Mechanisms:* those whose first message holds both names, PLAIN and X-OAUTH2 (RFC 4616 section 2), and SCRAM (RFC 5802
section 5.1). Not OAUTHBEARER, whose other name is inside a token that only the server can read; nor EXTERNAL, which is
not offered at all; the rest have no authzid.

*Allowed:* no authzid, or the authcid's own name, each with or without the domain of the stream. By RFC 6120 section
6.3.8 it is a bare JID. All spellings of one account are the same (:mod:`cxfr_proxy.spellings`).

The check is worthless if the node reads a message in another way than the proxy. So in these mechanisms a message that
could be read in two ways is refused. And every response is read until the node has ended the exchange, whether an
initial one came or not.
"""

from __future__ import annotations

from cxfr_proxy.spellings import user_key
from cxfr_proxy.xmpp.opening import sasl
from cxfr_proxy.xmpp.opening.sasl import Mechanism, Names, SaslFault, SaslRequest, Unreadable
from cxfr_proxy.xmpp.stanza import Element


def abort(namespace: str) -> bytes:
    """Return the element that aborts an exchange with the node, which then fails it (RFC 6120 6.4.4, XEP-0388 2.7)."""
    return f"<abort xmlns='{namespace}'/>".encode()


class AuthzidWatch:
    """One client's SASL exchanges, as far as they name an authzid."""

    __slots__ = ("_begun",)

    def __init__(self) -> None:
        self._begun: tuple[Mechanism, ...] = ()  # of the exchanges that have not ended

    def begun(self, request: SaslRequest, domain: str) -> SaslFault | None:
        """Return the fault of an ``<auth/>`` or ``<authenticate/>``, if it has one: then the exchange has not begun."""
        mechanism = request.row
        if mechanism is None or not mechanism.both:
            return None
        if request.fault is not None:
            return request.fault
        if _differ(request.names, domain):
            return SaslFault.INVALID_AUTHZID
        if mechanism not in self._begun:
            self._begun += (mechanism,)
        return None

    def answered(self, response: Element, domain: str) -> SaslFault | None:
        """Return the fault of a ``<response/>``, if it has one."""
        if not self._begun:
            return None
        try:
            said = sasl.message(response)
            if said is not None and any(_differ(mechanism.read(said), domain) for mechanism in self._begun):
                return SaslFault.INVALID_AUTHZID
        except Unreadable as found:
            return found.fault
        return None

    def ended(self) -> None:
        """Forget the exchange, since the node has said that it failed. After a success nothing is left to watch."""
        self._begun = ()


def _differ(named: Names | None, domain: str) -> bool:
    if named is None or not named.authzid or named.authzid == named.authcid:
        return False
    return _bare(named.authzid, domain) != _bare(named.authcid, domain)


def _bare(name: str, domain: str) -> str:
    return user_key(name if "@" in name else f"{name}@{domain}")
