"""From a client's first byte to its full JID.

Two readers, one after the other. :class:`ClientOpening` is the proxy's own part: the client's header is answered by the
proxy itself as long as TLS has to come first, and, where all nodes would say the same (:mod:`.node_features`), until
the client says who it is. Then a node is dialled, both streams run, and :class:`Negotiation` watches the elements pass,
SASL, SASL2, bind, resumption, changing only what has to change because TLS ends here.

Clients pipeline: header, ``<auth/>`` and more may come in one segment. So nothing is read beyond the element at hand,
and after a SASL element of the client the rest waits until the node has answered, because the answer decides whether
the next byte begins a new stream (RFC 6120 section 4.3.3).

Nothing of these elements is ever logged: passwords are among them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from lxml import etree

from cxfr_proxy.errors import ClientError, RemoteError
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.xmpp import jid, names, stanza
from cxfr_proxy.xmpp.framing.framer import Failure, Header, StreamEnd
from cxfr_proxy.xmpp.framing.lane import Lane, Piece
from cxfr_proxy.xmpp.names import SaslCondition, StreamCondition
from cxfr_proxy.xmpp.opening import attempt, authzid, client_identity, features
from cxfr_proxy.xmpp.opening.attempt import Attempt, FailedLogin
from cxfr_proxy.xmpp.opening.header import StreamHeader, read_header
from cxfr_proxy.xmpp.opening.login import Login, named_by, read_login
from cxfr_proxy.xmpp.opening.passage import Bound, Passage
from cxfr_proxy.xmpp.stanza import Element
from cxfr_proxy.xmpp.stream_management import Resumption, StreamManagement

_COMPRESSION: Final = "http://jabber.org/protocol/compress"
_STARTTLS: Final = stanza.qualified(names.TLS, "starttls")
_STREAM_FEATURES: Final = stanza.qualified(names.STREAM, "features")
_BIND2_INACTIVE: Final = f"{stanza.qualified(names.BIND2, 'bind')}/{stanza.qualified(names.CSI, 'inactive')}"
"""XEP-0386: a client that logs in without anybody looking says so at once."""
_FEATURES: Final = re.compile(rb"<(?:[^\s<>/:]+:)?features[\s/>]")
"""What they can begin with, and little else does."""

_ONE_OR_MORE: Final = re.compile(r"\s*0*[1-9][0-9]*\s*(\.|$)", re.ASCII)
"""A version's major number. Leading zeros mean nothing (RFC 6120 section 4.7.5)."""

STARTTLS_FEATURES: Final = (
    f"<stream:features><starttls xmlns='{names.TLS}'><required/></starttls></stream:features>".encode()
)
PROCEED: Final = f"<proceed xmlns='{names.TLS}'/>".encode()


# --- the proxy's own part


class DomainMoved(ClientError):
    """The domain that the client asks for is served elsewhere: at ``address``, ``host[:port]``."""

    def __init__(self, address: str) -> None:
        super().__init__(StreamCondition.SEE_OTHER_HOST, "this domain has moved")
        self.address = address


@dataclass(frozen=True, slots=True)
class Reply:
    """Send this to the client."""

    data: bytes


@dataclass(frozen=True, slots=True)
class BeginTls:
    """Drop every byte the client has sent so far, send :data:`PROCEED`, shake hands, and begin anew.

    ``domain``: whose certificate the client is to see, as its header said it.
    """

    domain: str


@dataclass(frozen=True, slots=True)
class Opened:
    """The client's header is here and no TLS has to come first; what else the client sent waits in the lane.

    ``greeted``: the client has got a header and features from the proxy, and ``login`` is what its first element says,
    which waits in the lane as well. Else it was shown nothing and waits for a node's, and ``login`` is what its header
    says; ``None``: nothing that would do.
    """

    header: StreamHeader
    login: Login | None = None
    greeted: bool = False


@dataclass(frozen=True, slots=True)
class Closed:
    """The client has ended its stream before it wanted anything of a node: send this, and close."""

    data: bytes


Step = Reply | BeginTls | Opened | Closed


class ClientOpening:
    """The client's stream as long as the proxy answers it alone.

    ``tls_first``: the client is not on TLS yet and has to be. ``domains``: those served here, by
    :func:`~cxfr_proxy.spellings.domain_key`; empty: any. ``stream_id``: the id for a header of the proxy's own (RFC
    6120 section 4.7.3), unguessable. ``template`` gives the features to show to a client of a domain before it has a
    node; ``None``: it has to have one first. ``offers_starttls``: a ``<starttls/>`` of the proxy's own is among them.

    ``moved``: the addresses of domains that are served elsewhere, by the same key, which are told over TLS only.
    ``on_tls``: the client is; ``can_start_tls``: it may be.
    """

    def __init__(
        self,
        lane: Lane,
        *,
        tls_first: bool,
        domains: Collection[str],
        stream_id: str,
        template: Callable[[str], bytes | None] = lambda _: None,
        offers_starttls: bool = False,
        moved: Mapping[str, str] | None = None,
        on_tls: bool = False,
        can_start_tls: bool = False,
    ) -> None:
        self._lane = lane
        self._tls_first = tls_first
        self._domains = domains
        self._stream_id = stream_id
        self._template = template
        self._offers_starttls = offers_starttls
        self._moved = moved or {}
        self._on_tls = on_tls
        self._can_start_tls = can_start_tls
        self._header: StreamHeader | None = None
        self._header_may_repeat = False  # some clients say it twice on direct TLS (QXmpp), and mean one stream
        self._answered = False

    def receive(self, data: bytes) -> list[Step]:
        """Read on; any last step but :class:`Reply` ends this opening.

        Raises :class:`ClientError`; :meth:`refuse` says what to send then.
        """
        self._lane.feed(data)
        steps: list[Step] = []
        while (piece := self._next()) is not None:
            match piece.note:
                case None:
                    continue
                case Failure(condition=condition, text=text):
                    raise ClientError(condition, text)
                case StreamEnd():  # whether TLS has to come first or not: a monitor, say, has seen all it wanted
                    steps.append(Closed(stanza.STREAM_END))
                case Header():
                    steps.append(self._on_header(piece.data))
                case _:
                    steps.append(self._on_element(piece))
            if not isinstance(steps[-1], Reply):
                break
        return steps

    def _next(self) -> Piece | None:
        if self._header is not None and self._header_may_repeat:
            self._header_may_repeat = not self._lane.skip(self._header.raw)
        return self._lane.next()

    def _on_header(self, raw: bytes) -> Step:
        header = read_header(raw, ClientError)
        self._header = header
        if not _ONE_OR_MORE.match(header.version or ""):
            raise ClientError(StreamCondition.UNSUPPORTED_VERSION, "XMPP 1.0 is needed")
        if not header.to:
            raise ClientError(StreamCondition.IMPROPER_ADDRESSING, "the stream header needs a 'to'")
        domain = domain_key(header.to)
        moved_to = self._moved.get(domain)
        if moved_to is not None:
            return self._send_elsewhere(moved_to)
        if self._domains and domain not in self._domains:
            raise ClientError(StreamCondition.HOST_UNKNOWN, "this domain is not served here")
        if self._tls_first:
            return self._require_tls()
        features = self._template(header.to)
        if features is None:
            return Opened(header)
        login = named_by(header)
        if login is not None:
            # What a node offers depends on who asks: ejabberd shows SASL2, Bind 2 and FAST to nobody who doesn't say.
            return Opened(header, login)
        self._header_may_repeat = True
        return Reply(self._answer_header() + features)

    def _require_tls(self) -> Reply:
        self._tls_first = True
        return Reply(self._answer_header() + STARTTLS_FEATURES)

    def _send_elsewhere(self, address: str) -> Reply:
        """Over TLS only: else whoever is in between could have said it (RFC 6120 section 4.9.3.19)."""
        if self._on_tls:
            raise DomainMoved(address)
        if not self._can_start_tls:
            raise ClientError(StreamCondition.HOST_GONE, "this domain has moved; without TLS nobody is told where to")
        return self._require_tls()

    def _on_element(self, piece: Piece) -> Step:
        header = self._header
        assert header is not None
        element = _parse(piece.data, header, ClientError)
        if element.tag == _STARTTLS and (self._tls_first or self._offers_starttls):
            return BeginTls(header.to or "")
        if self._tls_first:
            raise ClientError(StreamCondition.POLICY_VIOLATION, "TLS has to come first")
        self._lane.put_back(piece)
        return Opened(header, read_login(element, header.to or ""), greeted=True)

    def _answer_header(self) -> bytes:
        self._answered = True
        header = self._header
        return stanza.stream_header(
            to=header.from_ if header else None,
            from_=header.to if header else None,
            stream_id=self._stream_id,
            lang="en",
        )

    def refuse(self, error: RemoteError) -> bytes:
        """The last bytes for a client that is not let in: a header if it had none, the error, the end."""
        header = b"" if self._answered else self._answer_header()
        return header + last_words(error)


def last_words(error: RemoteError) -> bytes:
    """For a client that has got a header of the proxy's own."""
    address = error.address if isinstance(error, DomainMoved) else None
    return stanza.stream_error(error.condition, error.text, content=address) + stanza.STREAM_END


# --- between client and node


class Negotiation:
    """Watches client and node agree, and goes on watching what concerns the stream itself once they have.

    ``offer_starttls``: put an optional STARTTLS in front of the node's features. ``max_bytes``: the longest element
    taken from the client, ``None`` for any. ``check_authzid``: nobody logs in as somebody else (:mod:`.authzid`).
    ``resumption`` and ``new_id`` are :class:`~cxfr_proxy.xmpp.stream_management.StreamManagement`'s.

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
        "warnings",
    )

    def __init__(
        self,
        *,
        offer_starttls: bool = False,
        max_bytes: int | None = None,
        check_authzid: bool = True,
        resumption: Callable[[str], Resumption | None] = lambda _: None,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self._offer_starttls = offer_starttls
        self._max_bytes = max_bytes
        self._authzid = authzid.AuthzidWatch() if check_authzid else None
        self._authenticating = False  # an exchange has begun with the node, and not failed
        self._refusal = b""  # for the client, once the node has ended what was aborted
        self._features = b""  # of the node's, as they were before the proxy changed them
        self._iq_auth: tuple[str | None, str, str] | None = None  # id, user and resource of an XEP-0078 login
        self.attempt: Attempt | None = None
        """The login under way; ``None`` before one, and once a resource is bound."""
        self.agent: str | None = None
        """What the client's software is, if it has said so while it logged in."""
        self.full_jid: str | None = None
        self.management = StreamManagement(resumption, new_id)
        """XEP-0198, on or off."""
        self.inactive = False
        """The client has said that nobody looks at it (XEP-0352)."""
        self.warnings: tuple[str, ...] = ()
        """What an operator should know about the node's features."""

    # --- client to node

    def from_client(self, data: bytes, header: StreamHeader, position: int = 0) -> Passage:
        """One element of the client's. Raises :class:`ClientError`."""
        element = _parse(data, header, ClientError)
        match stanza.name_of(element):
            case names.SASL, "auth":
                return self._on_auth(data, element, header, _SASL_REFUSAL)
            case names.SASL2, "authenticate":
                self.inactive = element.find(_BIND2_INACTIVE) is not None
                self.agent = client_identity.agent(element)
                if self.management.from_client(element, position):
                    data = stanza.serialize(element)
                return self._on_auth(data, element, header, _SASL2_REFUSAL)
            case names.SASL | names.SASL2 as namespace, "response":
                return self._on_response(data, element, header, namespace)
            case names.SASL | names.SASL2, _:
                return Passage(forward=data, hold_client=True)
            case names.TLS, "starttls":
                if not self._offer_starttls:
                    raise ClientError(StreamCondition.POLICY_VIOLATION, "TLS was not offered")
                return Passage(start_tls=True)
            case names.SM | names.SM2, _:
                if self.management.from_client(element, position):
                    data = stanza.serialize(element)
            case names.CSI, "active" | "inactive" as state:
                self.inactive = state == "inactive"
            case namespace, "compress" if namespace == _COMPRESSION:
                return Passage(answer=_COMPRESSION_REFUSAL)
            case names.CLIENT, "iq":
                self._watch_iq_auth(element, header)
                return Passage(forward=data, asks=self._watch_bind(element))
            case names.CLIENT, "resume" if self.full_jid is None:
                return Passage(answer=_RESUMPTION_REFUSAL)
        return Passage(forward=data)

    def _on_auth(self, data: bytes, element: Element, header: StreamHeader, refusal: bytes) -> Passage:
        self.attempt = attempt.begun(element, header)
        # A mechanism that was stripped must not be reached by asking for it all the same: EXTERNAL, say, would ask the
        # node to judge the proxy's certificate as if it were the client's.
        if features.refusal(element.get("mechanism", "")) is not None:
            return Passage(answer=refusal, failed=self._fail(SaslCondition.INVALID_MECHANISM))
        if self._authzid is not None:
            fault = self._authzid.begun(element, header.to or "")
            if fault is not None:
                answer = fault.failure(etree.QName(element).namespace or "")
                return Passage(answer=answer, failed=self._fail(fault))
        begins = None if self._authenticating else element
        self._authenticating = True
        return Passage(forward=data, hold_client=True, begins=begins, asks=begins is not None)

    def _on_response(self, data: bytes, element: Element, header: StreamHeader, namespace: str) -> Passage:
        if self.attempt is not None:
            attempt.note_response(self.attempt, element, header)
        fault = self._authzid.answered(element, header.to or "") if self._authzid is not None else None
        if fault is not None:
            self._refusal, data = fault.failure(namespace), authzid.abort(namespace)
            if self.attempt is not None:
                self.attempt.verdict = fault
        return Passage(forward=data, hold_client=True, asks=True)

    def _fail(self, condition: str) -> FailedLogin | None:
        """What has become of the login under way, which is over; ``None`` where there is none."""
        failed = self.attempt.failed(condition) if self.attempt is not None else None
        self.attempt = None
        return failed

    def end_unfinished(self, condition: str, *, by_client: bool) -> FailedLogin | None:
        """The session ends: how the login under way failed; ``None`` where there is none. ``by_client``: it ends
        because of the client, who need not go on once its password was found right."""
        proved = self.attempt is not None and self.attempt.proved
        return self._fail(condition) if not (proved and by_client) else None

    def end_attempt(self) -> None:
        """A resource is bound: no login is under way any more."""
        self.attempt = None

    def take_warnings(self) -> tuple[str, ...]:
        """Return what an operator should know about the node's features, and was not told yet."""
        warnings, self.warnings = self.warnings, ()
        return warnings

    def _watch_bind(self, iq: Element) -> bool:
        """Whether it asks for a resource, by right."""
        if self.attempt is None or stanza.child(iq, names.BIND, "bind") is None:
            return False
        self.attempt.bind_id = iq.get("id")
        return self.attempt.proved and iq.get("type") == "set"

    @property
    def proved(self) -> bool:
        """The node has found the client's password right."""
        return self.attempt is not None and self.attempt.proved

    def _watch_iq_auth(self, iq: Element, header: StreamHeader) -> None:
        query = stanza.child(iq, names.IQ_AUTH, "query")
        if query is None or iq.get("type") != "set":
            if self._iq_auth is not None and iq.get("id") == self._iq_auth[0]:
                self._iq_auth = None  # an answer would be to this one now
            return
        user = query.findtext(stanza.qualified(names.IQ_AUTH, "username"))
        resource = query.findtext(stanza.qualified(names.IQ_AUTH, "resource"))
        if user and resource:
            self._iq_auth = (iq.get("id"), user, resource)
            self.attempt = attempt.begun_by_iq(user, header.to or "")

    # --- node to client

    def from_node(self, data: bytes, header: StreamHeader, domain: str, position: int = 0) -> Passage:
        """One element of the node's that is not an ordinary stanza of a bound stream.

        ``domain`` is the one the client asked for. Raises ``ValueError`` where the element can't be read.
        """
        if _FEATURES.match(data):
            rewritten = _rewrite_features(
                data, header.context, self._offer_starttls, self._max_bytes, managed=self.management.on
            )
            if rewritten is not None:
                return self._on_features(data, rewritten)
        element = stanza.parse(data, header.context)
        match stanza.name_of(element):
            case _, "error":  # whatever its namespace: there are clients that go by its name
                return _stream_error(data, element)
            case names.SASL, "success":
                self._prove()
                return Passage(forward=data, hold_client=False, restart=True)
            case names.SASL2, "success":
                return self._on_sasl2_success(data, element, position)
            case names.SASL | names.SASL2, "failure":
                if self._authzid is not None:
                    self._authzid.ended()
                self._authenticating = False
                refusal, self._refusal = self._refusal, b""
                failed = self._fail(attempt.sasl_condition(element))
                return Passage(forward=refusal or data, hold_client=False, failed=failed)
            case names.SASL | names.SASL2, local:
                if local == "challenge" and self._features and features.has_downgrade_protection(element):
                    offered = stanza.parse(self._features, header.context)
                    self.warnings = features.warnings(offered, downgrade_protection=True)
                return Passage(forward=data, hold_client=False)
            case names.SM | names.SM2, local:
                passage = self._on_stream_management(data, element, position)
                if local == "resumed":
                    passage.bound = self._resumed()
                return passage
            case names.CLIENT, "iq" if self.full_jid is None:
                failed = self._failed_by(element)
                return Passage(forward=data, bound=self._bound_by(element, domain), failed=failed)
        return Passage(forward=data)

    def _prove(self) -> None:
        if self.attempt is not None:
            self.attempt.proved = True

    def _failed_by(self, iq: Element) -> FailedLogin | None:
        """A login that this answer refuses: the whole of it (XEP-0078), or the resource, where another may be tried."""
        if self.attempt is None or iq.get("type") != "error":
            return None
        if self._iq_auth is not None and iq.get("id") == self._iq_auth[0]:
            return self._fail(attempt.stanza_condition(iq))
        is_bind = self.attempt.bind_id is not None and iq.get("id") == self.attempt.bind_id
        return self.attempt.failed(attempt.stanza_condition(iq)) if is_bind else None

    def _on_features(self, data: bytes, rewritten: _Rewritten) -> Passage:
        self.warnings = rewritten.warnings
        if rewritten.data != data:
            self._features = rewritten.original
        if rewritten.dead_end is not None and not self._authenticating:
            self.warnings = (rewritten.dead_end,)
            return Passage(ends=StreamCondition.REMOTE_CONNECTION_FAILED)
        return Passage(forward=rewritten.data, greets=True)

    def _on_sasl2_success(self, data: bytes, element: Element, position: int) -> Passage:
        self._prove()
        passage = self._on_stream_management(data, element, position)
        passage.hold_client = False
        named = element.findtext(stanza.qualified(names.SASL2, "authorization-identifier"))
        if named is not None and "/" in named:
            passage.bound = self._bound_to(named)
        if stanza.child(element, names.SM, "resumed") is not None:
            passage.bound = self._resumed()
        return passage

    def _on_stream_management(self, data: bytes, element: Element, position: int) -> Passage:
        before = self.management.id
        edited = self.management.from_node(element, position) | features.strip_location(element)
        return Passage(
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
            self._iq_auth = None  # whatever the answer is
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
        """What no address can look like (RFC 7622 section 3.1) names nobody to move; the client may know better."""
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
    """The same object for all who got the same."""
    data: bytes
    warnings: tuple[str, ...]
    dead_end: str | None
    """What is wrong, if nobody has logged in yet: they lead to no login."""


@functools.lru_cache(maxsize=256)
def _rewrite_features(
    data: bytes, context: bytes, offer_starttls: bool, max_bytes: int | None, *, managed: bool
) -> _Rewritten | None:
    """Nodes send the same few features to everybody, so what becomes of them is remembered.

    ``None`` where it is some other element of that name.
    """
    original, element = data, stanza.parse(data, context)
    if element.tag != _STREAM_FEATURES:
        return None
    warnings, dead_end = features.warnings(element), features.dead_end(element)
    if features.rewrite(element, offer_starttls=offer_starttls, max_bytes=max_bytes, managed=managed):
        data = stanza.serialize(element)
    return _Rewritten(original, data, warnings, dead_end)


def _stream_error(data: bytes, error: Element) -> Passage:
    """One that redirects does so wherever in it, and beside whatever else, it says so."""
    text = error.findtext(stanza.qualified(names.STREAM_ERRORS, "text"))
    redirect = next(error.iterdescendants("{*}" + StreamCondition.SEE_OTHER_HOST), None)
    if redirect is not None:
        return Passage(forward=data, ends=StreamCondition.SEE_OTHER_HOST, ends_text=text, redirect=redirect.text)
    if etree.QName(error).namespace != names.STREAM:
        return Passage(forward=data)
    return Passage(forward=data, ends=stanza.stream_condition(error), ends_text=text)


_SASL_REFUSAL: Final = f"<failure xmlns='{names.SASL}'><invalid-mechanism/></failure>".encode()
_SASL2_REFUSAL: Final = f"<failure xmlns='{names.SASL2}'><invalid-mechanism xmlns='{names.SASL}'/></failure>".encode()
_RESUMPTION_REFUSAL: Final = (
    f"<failed xmlns='{names.SM}'><item-not-found xmlns='{names.STANZA_ERRORS}'/></failed>".encode()
)
"""To a request to resume (XEP-0198) that stands in ``jabber:client``, as QXmpp 1.4 writes it when it was cut. Nodes
take it for no request at all, and the client waits in vain; told that there is nothing to resume, it binds anew."""
_COMPRESSION_REFUSAL: Final = f"<failure xmlns='{_COMPRESSION}'><setup-failed/></failure>".encode()


def _parse(data: bytes, header: StreamHeader, fault: type[RemoteError]) -> Element:
    try:
        return stanza.parse(data, header.context)
    except stanza.MalformedElement as exc:
        raise fault(StreamCondition.BAD_NAMESPACE_PREFIX, "an element uses an undeclared prefix") from exc
