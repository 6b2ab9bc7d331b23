"""Who logs in as whom: the authorization identity in the SASL messages of a client.

SASL tells whose password it is (authcid) from who to act as (authzid). XMPP knows one case where they differ, an
administrator who acts for somebody else, and hardly anybody has it. But a server that forgets to compare them lets
users in as anybody with their own password: ejabberd did, for PLAIN and X-OAUTH2, until 26.07. So the proxy, which
reads these messages anyway (:mod:`.sasl`), compares them itself.

Which mechanisms: those whose first message holds both names, PLAIN and X-OAUTH2 (RFC 4616 section 2), and SCRAM (RFC
5802 section 5.1). Not OAUTHBEARER, where the other name is inside a token that only the server can read; nor EXTERNAL,
which is not offered at all; the rest know no authzid.

What passes: no authzid, or the authcid's own name, each with or without the domain of the stream. RFC 6120 section
6.3.8 has it a bare JID. All spellings of one account are the same (:mod:`cxfr_proxy.spellings`).

A check is worth nothing if the node reads another message than the proxy. So in these mechanisms what could be read in
two ways is refused. And every response is read until the node has ended the exchange, whether an initial one came or
not.
"""

from __future__ import annotations

from cxfr_proxy.spellings import user_key
from cxfr_proxy.xmpp.opening import sasl
from cxfr_proxy.xmpp.opening.sasl import Mechanism, Names, SaslFault, SaslRequest, Unreadable
from cxfr_proxy.xmpp.stanza import Element


def abort(namespace: str) -> bytes:
    """Return what ends an exchange with the node, which fails it then (RFC 6120 6.4.4, XEP-0388 2.7)."""
    return f"<abort xmlns='{namespace}'/>".encode()


class AuthzidWatch:
    """One client's SASL exchanges, as far as they name an authzid."""

    __slots__ = ("_begun",)

    def __init__(self) -> None:
        self._begun: tuple[Mechanism, ...] = ()  # and not ended

    def begun(self, request: SaslRequest, domain: str) -> SaslFault | None:
        """Return what is wrong with an ``<auth/>`` or ``<authenticate/>``, if anything is: then it has not begun."""
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
        """Return what is wrong with a ``<response/>``, if anything is."""
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
