"""A client of a node's: log in, ask, resume. Everything that it reads is bounded, in length and in number."""

from __future__ import annotations

import base64
import binascii
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import trio

from cxfr_proxy.config.table import Limits
from cxfr_proxy.doctor.examining.scram import MECHANISMS, ScramClient, ScramFault
from cxfr_proxy.errors import NodeError
from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.upstream.probe_stream import Greeting, ProbeStream
from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.framing.lane import Lane
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.opening.header import StreamHeader
from cxfr_proxy.xmpp.stanza import Element, child, qualified

_MOST_BETWEEN: Final = 50
"""Most elements that a node may send before the one that is awaited."""
_VERSION: Final = "jabber:iq:version"  # XEP-0092
_TIME: Final = "urn:xmpp:time"  # XEP-0202
_ADDRESS: Final = "urn:xmpp:sic:1"  # XEP-0279
_LONGEST_TEXT: Final = 200


@dataclass(frozen=True, slots=True)
class Account:
    """A user of the nodes. ``password`` ``None``: it is not known, and the certificate for nodes has to do."""

    local: str
    domain: str
    password: str | None = field(repr=False)

    @property
    def jid(self) -> str:
        """The bare JID."""
        return f"{self.local}@{self.domain}"


class EntryRefused(Exception):
    """The node does not let the user in; the text says why, in its words as far as they are conditions."""


class NotTried(EntryRefused):
    """The doctor itself did not try: it knows none of the node's mechanisms, or would not send the password so."""


@dataclass(frozen=True, slots=True)
class LoginSeen:
    """The sight of a login by password: the mechanism, and what the node's challenge said, by its letters."""

    mechanism: str
    attributes: dict[str, str]


@dataclass(frozen=True, slots=True)
class SaslProfile:
    """How SASL's messages are written in XMPP: by RFC 6120, or by XEP-0388 (SASL2). ``inside`` goes into the first
    element of SASL2."""

    namespace: str
    inside: str = ""

    def begin(self, mechanism: str, said: bytes) -> bytes:
        """Return the element that begins a login."""
        text = base64.b64encode(said).decode()
        if self.namespace == names.SASL:
            return f"<auth xmlns='{self.namespace}' mechanism='{mechanism}'>{text}</auth>".encode()
        response = f"<initial-response>{text}</initial-response>"
        return (
            f"<authenticate xmlns='{self.namespace}' mechanism='{mechanism}'>{response}{self.inside}</authenticate>"
        ).encode()

    def respond(self, said: bytes) -> bytes:
        """Return the element that answers a challenge."""
        return f"<response xmlns='{self.namespace}'>{base64.b64encode(said).decode()}</response>".encode()

    def data_of(self, success: Element) -> str | None:
        """Return the text of the last message of the node's."""
        return success.text if self.namespace == names.SASL else success.findtext("{*}additional-data")

    def expect(self, answer: Element, name: str) -> None:
        """Raise :class:`EntryRefused` if that is another element than the one of that name."""
        namespace, local = stanza.name_of(answer)
        if (namespace, local) == (self.namespace, name):
            return
        if (namespace, local) == (self.namespace, "failure"):
            raise EntryRefused(f"it refuses the login: {condition(answer)}")
        raise EntryRefused(f"it answers the login by <{local[:_LONGEST_TEXT]}/>")


SASL: Final = SaslProfile(names.SASL)


class DoctorClient:
    """A client on ``endpoint``, which the caller closes. ``lane`` and ``header`` are those of a stream that has begun
    already; ``None``: it is to begin.

    All methods that wait raise :class:`NodeError` and ``OSError``, and wait as long as they are let.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        account: Account,
        limits: Limits,
        *,
        lane: Lane | None = None,
        header: StreamHeader | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._account = account
        self._lane = lane or Lane(max_element_bytes=limits.max_element_down, max_depth=limits.max_depth)
        self._stream = ProbeStream(endpoint, limits, self._lane)
        self._header = header
        self._count = 0

    async def open(self) -> Greeting:
        """Begin the stream, or begin it anew, and return the node's greeting."""
        opening = stanza.stream_header(to=self._account.domain, from_=self._account.jid, stream_id=None)
        greeting = await self._stream.open(self._account.domain, opening)
        self._header = greeting.header
        return greeting

    async def ask(self, request: bytes) -> Element:
        """Send that, and return the next element."""
        assert self._header is not None, "the stream has begun"
        return await self._stream.ask(request, self._header)

    async def close(self) -> None:
        """End the session in good order; nothing of it is left on the node."""
        with suppress(OSError):
            await self._stream.close()

    # --- logging in

    async def log_in(self, greeting: Greeting, *, plain_allowed: bool) -> tuple[LoginSeen, Greeting]:
        """Log in by SASL and begin the stream anew. Raises :class:`EntryRefused` as well.

        ``plain_allowed``: a password may be sent as it is.
        """
        offered = greeting.parsed.iterfind(
            f"{qualified(names.SASL, 'mechanisms')}/{qualified(names.SASL, 'mechanism')}"
        )
        mechanisms = {(each.text or "").strip() for each in offered}
        best = next((each for each in MECHANISMS if each in mechanisms), None)
        if best is not None:
            seen, _ = await self.log_in_by_scram(best, SASL)
        elif "PLAIN" in mechanisms and plain_allowed:
            seen = await self._log_in_by_password()
        else:
            raise NotTried("it offers no mechanism that the doctor knows: SCRAM, or PLAIN where nobody else listens")
        self._lane.restart()
        return seen, await self.open()

    async def _log_in_by_password(self) -> LoginSeen:
        secret = f"\0{self._account.local}\0{self._account.password}".encode()
        SASL.expect(await self.ask(SASL.begin("PLAIN", secret)), "success")
        return LoginSeen("PLAIN", {})

    async def log_in_by_certificate(self) -> None:
        """Log in by SASL EXTERNAL, as the account. Raises :class:`EntryRefused` as well."""
        SASL.expect(await self.ask(SASL.begin("EXTERNAL", self._account.jid.encode())), "success")

    async def log_in_by_scram(self, mechanism: str, profile: SaslProfile) -> tuple[LoginSeen, Element]:
        """Log in by SASL or SASL2, and return the node's success as well. Raises :class:`EntryRefused` too."""
        exchange = ScramClient(mechanism, self._account.local, self._account.password or "", secrets.token_hex(12))
        challenge = await self.ask(profile.begin(mechanism, exchange.first()))
        profile.expect(challenge, "challenge")
        try:
            exchange.read(_message(challenge.text))
            # A node may ask for a million rounds.
            answer = await trio.to_thread.run_sync(exchange.answer)
            success = await self.ask(profile.respond(answer))
            profile.expect(success, "success")
            exchange.check(_message(profile.data_of(success)))
        except ScramFault as exc:
            raise EntryRefused(str(exc)) from exc
        return LoginSeen(mechanism, exchange.attributes), success

    async def bind(self) -> None:
        """Ask for a resource, one that nobody else has. No presence follows, so no messages are routed to it."""
        resource = f"cxfr-proxy-doctor-{secrets.token_hex(4)}"
        asked = f"<bind xmlns='{names.BIND}'><resource>{resource}</resource></bind>"
        answer = await self._query(asked, kind="set", to=None)
        if answer is None:
            raise EntryRefused("it gives the session no resource")

    # --- questions

    async def software(self) -> str | None:
        """Return the name and version of the server (XEP-0092); ``None`` if it does not say."""
        answer = await self._query(f"<query xmlns='{_VERSION}'/>")
        query = child(answer, _VERSION, "query") if answer is not None else None
        if query is None:
            return None
        words = [query.findtext(qualified(_VERSION, part)) for part in ("name", "version")]
        return " ".join(word.strip() for word in words if word)[:_LONGEST_TEXT] or None

    async def clock(self) -> float | None:
        """Return the node's time (XEP-0202) in seconds since 1970; ``None`` if it does not say."""
        answer = await self._query(f"<time xmlns='{_TIME}'/>")
        text = answer.findtext(f"{qualified(_TIME, 'time')}/{qualified(_TIME, 'utc')}") if answer is not None else None
        try:
            said = datetime.fromisoformat((text or "").strip())
            return said.timestamp() if said.tzinfo is not None else None
        except (ValueError, OverflowError):
            return None

    async def address(self) -> tuple[str, int | None] | None:
        """Return where the node thinks that this client is (XEP-0279); ``None`` if it does not say."""
        answer = await self._query(f"<address xmlns='{_ADDRESS}'/>", to=None)
        if answer is None:
            return None
        ip = answer.findtext(f"{qualified(_ADDRESS, 'address')}/{qualified(_ADDRESS, 'ip')}")
        port = answer.findtext(f"{qualified(_ADDRESS, 'address')}/{qualified(_ADDRESS, 'port')}") or ""
        number = int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else None
        return (ip.strip()[:_LONGEST_TEXT], number) if ip else None

    async def _query(self, payload: str, *, kind: str = "get", to: str | None = "") -> Element | None:
        """Return the answer to a request, to the server if not to ``None``: the account; ``None`` for an error."""
        self._count += 1
        number = f"doctor{self._count}"
        where = f" to={stanza.quoted(self._account.domain)}" if to is not None else ""
        answer = await self.ask(f"<iq type='{kind}' id='{number}'{where}>{payload}</iq>".encode())
        for _ in range(_MOST_BETWEEN):
            if stanza.name_of(answer) == (names.CLIENT, "iq") and answer.get("id") == number:
                return answer if answer.get("type") == "result" else None
            answer = await self.ask(b"")
        raise NodeError(StreamCondition.REMOTE_CONNECTION_FAILED, "it sends much, and no answer")

    # --- stream management

    async def enable(self) -> str | None:
        """Switch XEP-0198 on, and return the id by which the session can be resumed; ``None``: it can't be."""
        answer = await self._await(
            f"<enable xmlns='{names.SM}' resume='true'/>".encode(), ((names.SM, "enabled"), (names.SM, "failed"))
        )
        can = stanza.name_of(answer)[1] == "enabled" and answer.get("resume") in ("true", "1")
        return answer.get("id") if can else None

    async def resume(self, session: str) -> str | None:
        """Resume a session. Return ``None``, or why the node did not."""
        request = f"<resume xmlns='{names.SM}' h='0' previd={stanza.quoted(session)}/>".encode()
        answer = await self._await(request, ((names.SM, "resumed"), (names.SM, "failed")))
        return None if stanza.name_of(answer)[1] == "resumed" else condition(answer)

    async def _await(self, request: bytes, wanted: tuple[tuple[str, str], ...]) -> Element:
        answer = await self.ask(request)
        for _ in range(_MOST_BETWEEN):
            if stanza.name_of(answer) in wanted:
                return answer
            answer = await self.ask(b"")
        raise NodeError(StreamCondition.REMOTE_CONNECTION_FAILED, "it sends much, and no answer")


def _message(text: str | None) -> bytes:
    try:
        return base64.b64decode("".join((text or "").split()), validate=True)
    except (binascii.Error, ValueError):
        raise ScramFault("it has sent no base64") from None


def condition(failure: Element) -> str:
    """Return the name of the first condition in an error."""
    return next((stanza.name_of(each)[1][:_LONGEST_TEXT] for each in failure), "without a reason")
