"""Watch client and node negotiate: SASL, SASL2, bind, resumption.

Both streams run, and :class:`Negotiation` watches their elements pass. It changes only what has to change because TLS
ends at the proxy, and returns an :class:`~.verdict.ElementVerdict` for each.

After a SASL element of the client's everything else waits until the node has answered, because the answer decides
whether the next byte begins a new stream (RFC 6120 section 4.3.3).

Nothing of these elements is ever logged: passwords are among them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from lxml import etree

from cxfr_proxy.errors import ClientError
from cxfr_proxy.xmpp import jid, names, stanza
from cxfr_proxy.xmpp.names import SaslCondition, StreamCondition
from cxfr_proxy.xmpp.opening import attempt, authzid, client_identity, features, sasl, usual_elements
from cxfr_proxy.xmpp.opening.attempt import FailedLogin, LoginAttempt
from cxfr_proxy.xmpp.opening.header import StreamHeader
from cxfr_proxy.xmpp.opening.login import Login, ReadLogin, login_of
from cxfr_proxy.xmpp.opening.sasl import SaslRequest
from cxfr_proxy.xmpp.opening.verdict import Bound, ElementVerdict
from cxfr_proxy.xmpp.stanza import Element
from cxfr_proxy.xmpp.stream_management import KnownSessions, StreamManagement

_COMPRESSION: Final = "http://jabber.org/protocol/compress"
_STREAM_FEATURES: Final = stanza.qualified(names.STREAM, "features")
_BIND2_INACTIVE: Final = f"{stanza.qualified(names.BIND2, 'bind')}/{stanza.qualified(names.CSI, 'inactive')}"
"""XEP-0386: a client that logs in while nobody looks at it says so at once."""
_FEATURES: Final = re.compile(rb"<(?:[^\s<>/:]+:)?features[\s/>]")
"""Matches the beginning of stream features, and of little else."""


class Negotiation:
    """Watches client and node agree, and goes on watching what concerns the stream itself once they have.

    ``offer_starttls``: put an optional STARTTLS in front of the node's features. ``max_bytes``: the longest element
    taken from the client, ``None`` for any. ``check_authzid``: refuse logins as somebody else (:mod:`.authzid`).
    ``known`` and ``new_id`` are :class:`~cxfr_proxy.xmpp.stream_management.StreamManagement`'s.

    In :meth:`from_client` and :meth:`from_node`, ``position`` is how many stanzas that side's stream has held so far.
    """

    __slots__ = (
        "_authenticating",
        "_authzid",
        "_features",
        "_iq_auth",
        "_max_bytes",
        "_offer_starttls",
        "_refusal",
        "agent",
        "attempt",
        "full_jid",
        "inactive",
        "management",
        "offers_management",
        "warnings",
    )

    def __init__(
        self,
        *,
        offer_starttls: bool = False,
        max_bytes: int | None = None,
        check_authzid: bool = True,
        known: KnownSessions | None = None,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self._offer_starttls = offer_starttls
        self._max_bytes = max_bytes
        self._authzid = authzid.AuthzidWatch() if check_authzid else None
        self._authenticating = False  # an exchange has begun with the node and has not failed
        self._refusal = b""  # for the client, once the node has ended what was aborted
        self._features = b""  # the node's, as they were before the proxy changed them
        self._iq_auth: tuple[str | None, str, str] | None = None  # id, user and resource of an XEP-0078 login
        self.attempt: LoginAttempt | None = None
        """The login under way; ``None`` before one, and once a resource is bound."""
        self.agent: str | None = None
        """The client's software, if it has said so while it logged in."""
        self.full_jid: str | None = None
        self.management = StreamManagement(known, new_id)
        """XEP-0198, on or off."""
        self.offers_management = False
        """The node's last features have offered it."""
        self.inactive = False
        """The client has said that nobody looks at it (XEP-0352)."""
        self.warnings: tuple[str, ...] = ()
        """Faults of the node's features that the operator should know."""

    # --- client to node

    def from_client(self, data: bytes, header: StreamHeader, position: int = 0, note: object = None) -> ElementVerdict:
        """Read one element of the client's, and return what is done with it. Raises :class:`ClientError`.

        ``note``: a :class:`~.login.ReadLogin` is an ``<auth/>`` that was read before, behind the same header
        (:mod:`.client_opening`).
        """
        if isinstance(note, ReadLogin):
            return self._on_auth(data, note.request, header, _SASL_REFUSAL, note.login)
        if (auth := usual_elements.read_auth(data)) is not None:
            return self._on_auth(data, sasl.request_of(auth), header, _SASL_REFUSAL)
        if self._iq_auth is None and (bind := usual_elements.read_bind(data)) is not None:
            return ElementVerdict(forward=data, asks=self._watch_bind(bind.type, bind.id))
        element = _parse(data, header)
        match stanza.name_of(element):
            case names.SASL, "auth":
                return self._on_auth(data, sasl.read_request(element), header, _SASL_REFUSAL)
            case names.SASL2, "authenticate":
                self.inactive = element.find(_BIND2_INACTIVE) is not None
                self.agent = client_identity.agent(element)
                if self.management.from_client(element, position):
                    data = stanza.serialize(element)
                return self._on_auth(data, sasl.read_request(element), header, _SASL2_REFUSAL)
            case names.SASL | names.SASL2 as namespace, "response":
                return self._on_response(data, element, header, namespace)
            case names.SASL | names.SASL2, _:
                return ElementVerdict(forward=data, hold_client=True)
            case names.TLS, "starttls":
                if not self._offer_starttls:
                    raise ClientError(StreamCondition.POLICY_VIOLATION, "TLS was not offered")
                return ElementVerdict(start_tls=True)
            case names.SM | names.SM2, _:
                if self.management.from_client(element, position):
                    data = stanza.serialize(element)
            case names.CSI, "active" | "inactive" as state:
                self.inactive = state == "inactive"
            case namespace, "compress" if namespace == _COMPRESSION:
                # It was not offered (XEP-0138). A compressed stream could not be read here.
                return ElementVerdict(answer=_COMPRESSION_REFUSAL)
            case names.CLIENT, "iq":
                self._watch_iq_auth(element, header)
                asks_for_resource = stanza.child(element, names.BIND, "bind") is not None
                asks = asks_for_resource and self._watch_bind(element.get("type"), element.get("id"))
                return ElementVerdict(forward=data, asks=asks)
            # QXmpp writes it in the wrong namespace; see _RESUMPTION_REFUSAL.
            case names.CLIENT, "resume" if self.full_jid is None:
                return ElementVerdict(answer=_RESUMPTION_REFUSAL)
        return ElementVerdict(forward=data)

    def _on_auth(
        self, data: bytes, request: SaslRequest, header: StreamHeader, refusal: bytes, login: Login | None = None
    ) -> ElementVerdict:
        self.attempt = attempt.begun(request, header)
        # A client could ask for a mechanism although it was taken out. By EXTERNAL, say, the node would judge the
        # proxy's certificate as if it were the client's.
        if features.refusal(request.mechanism) is not None:
            return ElementVerdict(answer=refusal, failed=self._fail(SaslCondition.INVALID_MECHANISM))
        if self._authzid is not None:
            fault = self._authzid.begun(request, header.to or "")
            if fault is not None:
                return ElementVerdict(answer=fault.failure(request.namespace), failed=self._fail(fault))
        # A login behind one that is under way, which the node has not failed yet, leads to no other node.
        begins = None if self._authenticating else login or login_of(request, header.to or "")
        self._authenticating = True
        return ElementVerdict(forward=data, hold_client=True, begins=begins, asks=begins is not None)

    def _on_response(self, data: bytes, element: Element, header: StreamHeader, namespace: str) -> ElementVerdict:
        if self.attempt is not None:
            attempt.note_response(self.attempt, element, header)
        fault = self._authzid.answered(element, header.to or "") if self._authzid is not None else None
        if fault is not None:
            # The node gets an <abort/> and the client its answer when the node has failed the exchange: both are then
            # where a new login can begin.
            self._refusal, data = fault.failure(namespace), authzid.abort(namespace)
            if self.attempt is not None:
                self.attempt.verdict = fault
        return ElementVerdict(forward=data, hold_client=True, asks=True)

    def _fail(self, condition: str) -> FailedLogin | None:
        """End the login under way, and return the report of it; ``None`` if there is none."""
        failed = self.attempt.failed(condition) if self.attempt is not None else None
        self.attempt = None
        return failed

    def end_unfinished(self, condition: str, *, by_client: bool) -> FailedLogin | None:
        """Return how the login under way failed when the session ends; ``None`` if there is none. ``by_client``: the
        client has ended it; then no login counts as failed whose password was right."""
        proved = self.attempt is not None and self.attempt.proved
        return self._fail(condition) if not (proved and by_client) else None

    def end_attempt(self) -> None:
        """Forget the login: a resource is bound."""
        self.attempt = None

    def take_warnings(self) -> tuple[str, ...]:
        """Return the faults of the node's features that were not reported yet."""
        warnings, self.warnings = self.warnings, ()
        return warnings

    def _watch_bind(self, iq_type: str | None, iq_id: str | None) -> bool:
        """Return whether an IQ with ``<bind/>`` rightly asks for a resource."""
        if self.attempt is None:
            return False
        self.attempt.bind_id = iq_id
        return self.attempt.proved and iq_type == "set"

    @property
    def proved(self) -> bool:
        """The node has found the client's password right."""
        return self.attempt is not None and self.attempt.proved

    def _watch_iq_auth(self, iq: Element, header: StreamHeader) -> None:
        query = stanza.child(iq, names.IQ_AUTH, "query")
        if query is None or iq.get("type") != "set":
            if self._iq_auth is not None and iq.get("id") == self._iq_auth[0]:
                self._iq_auth = None  # the id is used again, so an answer would belong to this IQ
            return
        user = query.findtext(stanza.qualified(names.IQ_AUTH, "username"))
        resource = query.findtext(stanza.qualified(names.IQ_AUTH, "resource"))
        if user and resource:
            self._iq_auth = (iq.get("id"), user, resource)
            self.attempt = attempt.begun_by_iq(user, header.to or "")

    # --- node to client

    def from_node(self, data: bytes, header: StreamHeader, domain: str, position: int = 0) -> ElementVerdict:
        """Read one element of the node's that is no ordinary stanza of a bound stream; return what is done with it.

        ``domain`` is the one that the client asked for. Raises ``ValueError`` if the element can't be read.
        """
        if _FEATURES.match(data):
            rewritten = _rewrite_features(
                data, header.context, self._offer_starttls, self._max_bytes, managed=self.management.on
            )
            if rewritten is not None:
                return self._on_features(data, rewritten)
        if usual_elements.is_success(data):
            self._prove()
            return ElementVerdict(forward=data, hold_client=False, restart=True)
        # While a request of XEP-0078 is open, lxml has to read the answers.
        may_bind = self.full_jid is None and self._iq_auth is None
        if may_bind and (bind := usual_elements.read_bind(data)) is not None and bind.type == "result":
            return ElementVerdict(forward=data, bound=self._bound_to(bind.jid) if bind.jid else None)
        element = stanza.parse(data, header.context)
        match stanza.name_of(element):
            case _, "error":  # in any namespace: some clients go by the name alone
                return _stream_error(data, element)
            case names.SASL, "success":
                self._prove()
                return ElementVerdict(forward=data, hold_client=False, restart=True)
            case names.SASL2, "success":
                return self._on_sasl2_success(data, element, position)
            case names.SASL | names.SASL2, "failure":
                if self._authzid is not None:
                    self._authzid.ended()
                self._authenticating = False
                refusal, self._refusal = self._refusal, b""
                failed = self._fail(attempt.sasl_condition(element))
                return ElementVerdict(forward=refusal or data, hold_client=False, failed=failed)
            case names.SASL | names.SASL2, local:
                if local == "challenge" and self._features and features.has_downgrade_protection(element):
                    offered = stanza.parse(self._features, header.context)
                    self.warnings = features.warnings(offered, downgrade_protection=True)
                return ElementVerdict(forward=data, hold_client=False)
            case names.SM | names.SM2, local:
                verdict = self._on_stream_management(data, element, position)
                if local == "resumed":
                    verdict.bound = self._resumed()
                return verdict
            case names.CLIENT, "iq" if self.full_jid is None:
                failed = self._failed_by(element)
                return ElementVerdict(forward=data, bound=self._bound_by(element, domain), failed=failed)
        return ElementVerdict(forward=data)

    def _prove(self) -> None:
        if self.attempt is not None:
            self.attempt.proved = True

    def _failed_by(self, iq: Element) -> FailedLogin | None:
        """Return the login that this answer refuses: all of it (XEP-0078), or the resource; another may be tried."""
        if self.attempt is None or iq.get("type") != "error":
            return None
        if self._iq_auth is not None and iq.get("id") == self._iq_auth[0]:
            return self._fail(attempt.stanza_condition(iq))
        is_bind = self.attempt.bind_id is not None and iq.get("id") == self.attempt.bind_id
        return self.attempt.failed(attempt.stanza_condition(iq)) if is_bind else None

    def _on_features(self, data: bytes, rewritten: _Rewritten) -> ElementVerdict:
        self.warnings = rewritten.warnings
        self.offers_management = rewritten.offers_management
        if rewritten.data != data:
            self._features = rewritten.original
        if rewritten.dead_end is not None and not self._authenticating:
            self.warnings = (rewritten.dead_end,)
            return ElementVerdict(ends=StreamCondition.REMOTE_CONNECTION_FAILED)
        return ElementVerdict(forward=rewritten.data, greets=True)

    def _on_sasl2_success(self, data: bytes, element: Element, position: int) -> ElementVerdict:
        self._prove()
        verdict = self._on_stream_management(data, element, position)
        verdict.hold_client = False
        named = element.findtext(stanza.qualified(names.SASL2, "authorization-identifier"))
        # A full JID: Bind 2 has bound a resource in the same step (XEP-0386).
        if named is not None and "/" in named:
            verdict.bound = self._bound_to(named)
        if stanza.child(element, names.SM, "resumed") is not None:
            verdict.bound = self._resumed()
        return verdict

    def _on_stream_management(self, data: bytes, element: Element, position: int) -> ElementVerdict:
        before = self.management.id
        edited = self.management.from_node(element, position) | features.strip_location(element)
        return ElementVerdict(
            forward=stanza.serialize(element) if edited else data,
            resumable=self.management.resumable and self.management.id != before,
        )

    def _resumed(self) -> Bound:
        if self.full_jid is None:
            self.full_jid = self.management.full_jid
        return Bound(self.full_jid, resumed=True)

    def _bound_by(self, iq: Element, domain: str) -> Bound | None:
        iq_auth = self._iq_auth if self._iq_auth is not None and iq.get("id") == self._iq_auth[0] else None
        if iq_auth is not None:
            self._iq_auth = None  # answered, by a result or an error
        if iq.get("type") != "result":
            return None
        bind = stanza.child(iq, names.BIND, "bind")
        named = None
        if bind is not None:
            named = bind.findtext(stanza.qualified(names.BIND, "jid"))
        elif iq_auth is not None:
            _, user, resource = iq_auth
            named = f"{user}@{domain}/{resource}"
        return self._bound_to(named) if named else None

    def _bound_to(self, named: str) -> Bound:
        """Take the address that is bound. A text that can be no full JID (RFC 7622 section 3.1) leaves a client that
        can't be moved."""
        try:
            self.full_jid = named if jid.split(named).resource is not None else None
        except jid.JidError:
            self.full_jid = None
        if self.full_jid is None:
            self.warnings = (
                "it binds resources to what is no full JID of at most 3071 bytes, so these can't be moved",
            )
        return Bound(self.full_jid)


@dataclass(frozen=True, slots=True)
class _Rewritten:
    original: bytes
    """The features as they came, as one object for all streams with the same."""
    data: bytes
    warnings: tuple[str, ...]
    dead_end: str | None
    """The fault, if they lead to no login; it counts only before a login."""
    offers_management: bool
    """They have ``<sm/>`` of XEP-0198, for the stream that they begin."""


@functools.lru_cache(maxsize=256)
def _rewrite_features(
    data: bytes, context: bytes, offer_starttls: bool, max_bytes: int | None, *, managed: bool
) -> _Rewritten | None:
    """Return features as the client gets them. Cached, since nodes send the same few to all.

    ``None`` if it is another element of that name.
    """
    original, element = data, stanza.parse(data, context)
    if element.tag != _STREAM_FEATURES:
        return None
    warnings, dead_end = features.warnings(element), features.dead_end(element)
    offers_management = stanza.child(element, names.SM, "sm") is not None
    if features.rewrite(element, offer_starttls=offer_starttls, max_bytes=max_bytes, managed=managed):
        data = stanza.serialize(element)
    return _Rewritten(original, data, warnings, dead_end, offers_management)


def _stream_error(data: bytes, error: Element) -> ElementVerdict:
    """Return the meaning of a stream error. It is a redirect if ``see-other-host`` stands anywhere in it, beside
    anything else."""
    text = error.findtext(stanza.qualified(names.STREAM_ERRORS, "text"))
    redirect = next(error.iterdescendants("{*}" + StreamCondition.SEE_OTHER_HOST), None)
    if redirect is not None:
        return ElementVerdict(forward=data, ends=StreamCondition.SEE_OTHER_HOST, ends_text=text, redirect=redirect.text)
    if etree.QName(error).namespace != names.STREAM:
        return ElementVerdict(forward=data)
    return ElementVerdict(forward=data, ends=stanza.stream_condition(error), ends_text=text)


_SASL_REFUSAL: Final = f"<failure xmlns='{names.SASL}'><invalid-mechanism/></failure>".encode()
_SASL2_REFUSAL: Final = f"<failure xmlns='{names.SASL2}'><invalid-mechanism xmlns='{names.SASL}'/></failure>".encode()
_RESUMPTION_REFUSAL: Final = (
    f"<failed xmlns='{names.SM}'><item-not-found xmlns='{names.STANZA_ERRORS}'/></failed>".encode()
)
"""The answer to a request to resume (XEP-0198) that stands in ``jabber:client``, as QXmpp 1.4 writes it when it was
cut. Nodes take it for no request at all, and the client waits in vain; told that there is nothing to resume, it binds
anew."""
_COMPRESSION_REFUSAL: Final = f"<failure xmlns='{_COMPRESSION}'><setup-failed/></failure>".encode()


def _parse(data: bytes, header: StreamHeader) -> Element:
    try:
        return stanza.parse(data, header.context)
    except stanza.MalformedElement as exc:
        raise ClientError(StreamCondition.BAD_NAMESPACE_PREFIX, "an element uses an undeclared prefix") from exc
