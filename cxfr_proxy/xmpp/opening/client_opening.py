"""The client's stream before there is a node: the proxy answers by itself.

It answers the client's header as long as TLS has to come first and, if all nodes would say the same
(:mod:`.node_features`), until the client says who it is. Then a node is dialled, and :mod:`.negotiation` follows.

Clients pipeline: header, ``<auth/>`` and more may come in one segment. So nothing is read beyond the element at hand.

Nothing of these elements is ever logged: passwords are among them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Final, Protocol

from msgspec import Struct

from cxfr_proxy.errors import ClientError, RemoteError
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.framing.framer import StreamEnd, StreamFault, StreamStart, WholeElement
from cxfr_proxy.xmpp.framing.lane import Lane, Piece
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.opening.header import StreamHeader, read_header
from cxfr_proxy.xmpp.opening.login import Login, ReadLogin, login_of, named_by, read_login
from cxfr_proxy.xmpp.opening.sasl import request_of
from cxfr_proxy.xmpp.opening.usual_elements import read_auth

_STARTTLS: Final = stanza.qualified(names.TLS, "starttls")
_ONE_OR_MORE: Final = re.compile(r"\s*0*[1-9][0-9]*\s*(\.|$)", re.ASCII)
"""A version's major number. Leading zeros mean nothing (RFC 6120 section 4.7.5)."""
_NONE_MOVED: Final[Mapping[str, str]] = MappingProxyType({})

STARTTLS_FEATURES: Final = (
    f"<stream:features><starttls xmlns='{names.TLS}'><required/></starttls></stream:features>".encode()
)
PROCEED: Final = f"<proceed xmlns='{names.TLS}'/>".encode()


class DomainMoved(ClientError):
    """The domain that the client asks for is served elsewhere, at ``address`` (``host[:port]``)."""

    def __init__(self, address: str) -> None:
        super().__init__(StreamCondition.SEE_OTHER_HOST, "this domain has moved")
        self.address = address


class Reply(Struct, frozen=True, gc=False):
    """Send this to the client."""

    data: bytes


class BeginTls(Struct, frozen=True, gc=False):
    """Drop every byte the client has sent so far, send :data:`PROCEED`, shake hands, and begin anew.

    ``domain`` is the one whose certificate the client is to see, as its header said it.
    """

    domain: str


class Opened(Struct, frozen=True, gc=False):
    """The client's header is here and no TLS has to come first; everything else that the client sent waits in the lane.

    ``greeted``: the client has got a header and features from the proxy, and ``login`` is what its first element says,
    which waits in the lane as well. Otherwise the client was shown nothing and waits for a node's header, and ``login``
    is what its own header says; ``None`` if that is nothing of use.
    """

    header: StreamHeader
    login: Login | None = None
    greeted: bool = False


class Closed(Struct, frozen=True, gc=False):
    """The client has ended its stream before it wanted anything of a node: send this, and close."""

    data: bytes


Step = Reply | BeginTls | Opened | Closed


class ShownFeatures(Protocol):
    """Knows which features may be shown before there is a node."""

    def of(self, domain: str, *, offer_starttls: bool) -> bytes | None:
        """Return the features to show to a client of that domain; ``None``: it has to have a node first."""


class OpeningRules(Struct, frozen=True, kw_only=True):
    """The rules for all clients while the proxy answers them alone.

    ``new_stream_id`` makes the id for a header of the proxy's own (RFC 6120 section 4.7.3), which nobody can guess.
    ``domains`` are those served here, by :func:`~cxfr_proxy.spellings.domain_key`; empty: any. ``moved`` has the
    addresses of domains that are served elsewhere, by the same key; clients are told over TLS only. A client that is
    not on TLS yet has to be if ``requires_tls``, and may be if ``offers_tls``. ``features`` is ``None`` if every client
    needs a node first.
    """

    new_stream_id: Callable[[], str]
    domains: Collection[str] = ()
    moved: Mapping[str, str] = _NONE_MOVED
    requires_tls: bool = False
    offers_tls: bool = False
    features: ShownFeatures | None = None


class ClientOpening:
    """One client's stream, read from ``lane`` as long as the proxy answers it alone.

    ``may_start_tls``: false where STARTTLS is not to be had, whatever the rules say (RFC 7395 section 3.9).
    """

    __slots__ = (
        "_answered",
        "_header",
        "_header_may_repeat",
        "_lane",
        "_may_start_tls",
        "_offers_tls",
        "_on_tls",
        "_rules",
        "_tls_first",
    )

    def __init__(self, lane: Lane, rules: OpeningRules, *, on_tls: bool, may_start_tls: bool = True) -> None:
        self._lane = lane
        self._rules = rules
        self._on_tls = on_tls
        self._may_start_tls = may_start_tls and not on_tls
        self._tls_first = rules.requires_tls and self._may_start_tls
        self._offers_tls = rules.offers_tls and self._may_start_tls
        self._header: StreamHeader | None = None
        self._header_may_repeat = False  # QXmpp sends it twice on direct TLS, and means one stream
        self._answered = False

    def receive(self, data: bytes) -> list[Step]:
        """Read on, and return what follows; a last step other than :class:`Reply` ends this opening.

        Raises :class:`ClientError`; :meth:`refuse` says what to send then.
        """
        self._lane.feed(data)
        steps: list[Step] = []
        while (piece := self._next()) is not None:
            match piece.event:
                case WholeElement():
                    steps.append(self._on_element(piece))
                case StreamStart():
                    steps.append(self._on_header(piece.data))
                case None:
                    continue
                case StreamFault(condition=condition, text=text):
                    raise ClientError(condition, text)
                case StreamEnd():  # even if TLS has to come first: a monitor, say, has seen all it wanted
                    steps.append(Closed(stanza.STREAM_END))
            if piece.last or not isinstance(steps[-1], Reply):
                break
        return steps

    def _next(self) -> Piece | None:
        if self._header is not None and self._header_may_repeat:
            self._header_may_repeat = not self._lane.skip(self._header.raw)
        return self._lane.next()

    def _on_header(self, raw: bytes) -> Step:
        header = self._header = read_header(raw, ClientError)
        rules = self._rules
        # No version means the protocol before RFC 3920, which has no features (RFC 6120 section 4.7.5).
        if not _ONE_OR_MORE.match(header.version or ""):
            raise ClientError(StreamCondition.UNSUPPORTED_VERSION, "XMPP 1.0 is needed")
        if not header.to:
            raise ClientError(StreamCondition.IMPROPER_ADDRESSING, "the stream header needs a 'to'")
        domain = domain_key(header.to)
        # Before "is it served": a domain that has moved is served here no more.
        moved_to = rules.moved.get(domain)
        if moved_to is not None:
            return self._send_elsewhere(moved_to)
        if rules.domains and domain not in rules.domains:
            raise ClientError(StreamCondition.HOST_UNKNOWN, "this domain is not served here")
        if self._tls_first:
            return self._require_tls()
        features = rules.features.of(header.to, offer_starttls=self._offers_tls) if rules.features is not None else None
        if features is None:
            return Opened(header)
        login = named_by(header)
        if login is not None:
            # A node may offer more to a client that says who it is: ejabberd does so with SASL2, Bind 2 and FAST.
            return Opened(header, login)
        self._header_may_repeat = True
        return Reply(self._answer_header() + features)

    def _require_tls(self) -> Reply:
        self._tls_first = True
        return Reply(self._answer_header() + STARTTLS_FEATURES)

    def _send_elsewhere(self, address: str) -> Reply:
        """Tell the client the new address, over TLS only: in plaintext anybody on the path could have written it."""
        if self._on_tls:
            raise DomainMoved(address)
        if not (self._tls_first or self._offers_tls):
            raise ClientError(StreamCondition.HOST_GONE, "this domain has moved; without TLS nobody is told where to")
        return self._require_tls()

    def _on_element(self, piece: Piece) -> Step:
        header = self._header
        assert header is not None
        auth = read_auth(piece.data) if not self._tls_first else None
        if auth is not None:
            request = request_of(auth)
            login = login_of(request, header.to or "")
            self._lane.put_back(piece, ReadLogin(request, login))  # behind the node's greeting it comes again
            return Opened(header, login, greeted=True)
        try:
            element = stanza.parse(piece.data, header.context)
        except stanza.MalformedElement as exc:
            raise ClientError(StreamCondition.BAD_NAMESPACE_PREFIX, "an element uses an undeclared prefix") from exc
        if element.tag == _STARTTLS and (self._tls_first or self._offers_tls):
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
            stream_id=self._rules.new_stream_id(),
            lang="en",
        )

    def refuse(self, error: RemoteError) -> bytes:
        """Return the last bytes for a client that is not let in: a header if it had none, the error, the end."""
        header = b"" if self._answered else self._answer_header()
        return header + last_words(error)


def last_words(error: RemoteError) -> bytes:
    """Return the error and the stream's end, for a client that has got a header of the proxy's own."""
    address = error.address if isinstance(error, DomainMoved) else None
    return stanza.stream_error(error.condition, error.text, content=address) + stanza.STREAM_END
