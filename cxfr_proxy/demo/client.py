"""Clients that behave like real ones: some know XEP-0051, most do not, and some know nothing at all.

:mod:`cxfr_proxy.demo.habits` says what each kind does when it is told to move. Everything else is the same for all: log
in, answer pings, send numbered messages, and come back when the stream ends, after a back-off with jitter. Time and
chance come from trio's clock and the ``random.Random`` that is passed in.

A client remembers how each of its streams ended, as the *rung* that the end looks like from its side
(:class:`~cxfr_proxy.demo.habits.SeenRung`), and keeps account of what it sent (:mod:`cxfr_proxy.demo.account`).
"""

from __future__ import annotations

import random
from typing import Final
from xml.sax.saxutils import quoteattr

import trio

from cxfr_proxy.demo.account import ClientAccount, Numbered
from cxfr_proxy.demo.browser import BrowserStream
from cxfr_proxy.demo.client_login import LoginRefused, StreamLost, WayIn
from cxfr_proxy.demo.directions import Directions
from cxfr_proxy.demo.habits import (
    HABITS,
    ClientKind,
    ClientLogin,
    ClientMove,
    Ending,
    Life,
    Security,
    SeenRung,
    Target,
    Traffic,
    capabilities,
    disco_info,
)
from cxfr_proxy.demo.resumption import ClientResumption
from cxfr_proxy.demo.wire import (
    ERROR_TAG,
    GONE,
    IQ_TAG,
    MESSAGE_TAG,
    STANZA_TAGS,
    Connection,
    EndOfFile,
    HostPort,
    StreamClosed,
)
from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.names import StanzaCondition
from cxfr_proxy.xmpp.stanza import STREAM_END, Element, child, qualified

FINISH_SECONDS: Final = 2.0
"""For echoes still on their way when a client is asked to move."""
CLOSE_SECONDS: Final = 10.0
"""For the peer's ``</stream:stream>``. A proxy forwards everything due before it sends that."""
MAX_BACK_OFF_SECONDS: Final = 5.0
ACK_EVERY: Final = 5
"""Stanzas between two XEP-0198 requests."""
RESEND_SECONDS: Final = 1.0
"""After an error of type ``wait`` on a stream that lives on."""


class DemoClient:
    """One user's client. :meth:`run` lives until cancelled, or until :meth:`leave` is done.

    ``back_off_seconds`` is the first delay before coming back; it doubles with every failure.
    """

    def __init__(
        self,
        jid: str,
        kind: ClientKind,
        address: HostPort,
        *,
        rng: random.Random,
        login: ClientLogin | None = None,
        traffic: Traffic | None = None,
        back_off_seconds: float = 0.5,
    ) -> None:
        login = login if login is not None else ClientLogin()
        self.bare_jid = jid.partition("/")[0]
        self.user, _, self.domain = self.bare_jid.partition("@")
        self.kind = kind
        self.habits = HABITS[kind]
        # On WebSocket there is no STARTTLS: where there is TLS, it comes first (RFC 7395 section 3.9).
        tls_first = self.habits.websocket and login.security is Security.STARTTLS
        self.home = Target(address, Security.DIRECT_TLS if tls_first else login.security)
        self.traffic = traffic
        self.account = ClientAccount(self.bare_jid)
        self.full_jid: str | None = None
        """As bound last."""
        self.life = Life.AWAY
        self.target = self.home
        self.moves: list[ClientMove] = []
        self.faults: list[str] = []
        """Faults of the peer, and logins that failed; for a failing test to show."""
        self.logins = 0
        self._rng = rng
        self._resource = login.resource
        self._directions = Directions(self.domain, self.home, self.habits, self.faults)
        self._way_in = WayIn(self.user, login, self._directions)
        self._back_off_seconds = back_off_seconds
        self._leaving = False
        self._waiting = trio.lowlevel.ParkingLot()
        self._resumption: ClientResumption | None = None
        self._pending: tuple[Ending, float] | None = None
        self._ever_bound = False
        self._unrequested = 0
        self._reset()

    def _reset(self) -> None:
        """Forget what belonged to the last connection."""
        self._connection: Connection | None = None
        self._quiet = False
        self._going: Target | None = None
        self._settled = trio.Event()
        self._told_to_go = trio.Event()
        self._resend_at = 0.0
        self._deaf = False

    # ---- the interface ----

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, stay connected and send. Reports ``started`` at the first bind."""
        failures = 0
        try:
            while not self._leaving:
                bound, ending = await self._one_stream(task_status)
                failures = 0 if bound else failures + 1
                told = ending.target is not None
                self.target = ending.target or self.home
                self.life = Life.AWAY
                if not self._leaving:
                    await trio.sleep(self._pause(failures, told))
        finally:
            self.life = Life.GONE

    async def bound(self) -> None:
        """Wait until a stream is bound or resumed."""
        while self.life is not Life.BOUND:
            await self._waiting.park()

    def quiet(self) -> None:
        """Start no new message; what is on its way goes on."""
        self.traffic = None

    def leave(self) -> None:
        """Close the stream properly, and do not come back."""
        self._leaving = True
        self._go(None)

    def send(self, data: bytes) -> None:
        """Send one stanza of the test's own, on the present stream; dropped if there is none."""
        self._send(data)

    # ---- one stream ----

    def _pause(self, failures: int, told: bool) -> float:
        """Return the seconds to wait: next to none for a client that was told where to go, else exponential, always
        with jitter."""
        if told and not failures:
            return self._rng.uniform(0, 0.05 * self._back_off_seconds)
        return self._rng.uniform(0.5, 1.0) * min(
            MAX_BACK_OFF_SECONDS, self._back_off_seconds * 2.0 ** max(0, failures - 1)
        )

    async def _one_stream(self, task_status: trio.TaskStatus[None]) -> tuple[bool, Ending]:
        """Connect, log in, live; true if it came to a bind, and how it ended."""
        self._reset()
        self.life = Life.CONNECTING
        came_in = False
        ending = Ending(SeenRung.CUT)
        try:
            async with trio.open_nursery() as nursery:
                transport = await self._way_in.connect(self.target, nursery)
                connection = self._connection = Connection(transport)
                try:
                    nursery.start_soon(connection.write_forever)
                    await self._log_in(connection)
                    came_in = True
                    self._came_in(task_status)
                    nursery.start_soon(self._send_traffic)
                    ending = await self._read_until_end(connection)
                    nursery.cancel_scope.cancel()
                finally:
                    await self._close(connection)
        except* StreamLost as lost:
            first = _first(lost)
            ending = first.ending
            self.faults.append(f"login: {first}")
        except* (*GONE, trio.TooSlowError) as failed:
            self.faults.append(f"connect: {failed.exceptions[0]!r}")
        except* LoginRefused:
            self._leaving = True
            self.faults.append("login refused")
        if came_in:
            self._pending = (ending, trio.current_time())
        return came_in, ending

    async def _close(self, connection: Connection) -> None:
        self._connection = None
        with trio.move_on_after(1) as scope:
            scope.shield = True
            await connection.close()

    def _came_in(self, task_status: trio.TaskStatus[None]) -> None:
        self.life = Life.BOUND
        self.logins += 1
        if not self._ever_bound:
            self._ever_bound = True
            task_status.started()
        self._waiting.unpark_all()
        if self._leaving:
            self._go(None)

    def _note_move(self, *, resumed: bool) -> None:
        if self._pending is not None:
            ending, since = self._pending
            self._pending = None
            self.moves.append(ClientMove(ending.rung, self.target.address, trio.current_time() - since, resumed))

    # ---- logging in ----

    async def _log_in(self, connection: Connection) -> None:
        features = await self._way_in.log_in(connection, self.target.security)
        sm = self.habits.resumes and child(features, names.SM, "sm") is not None
        if not (sm and await self._resumed(connection)):
            await self._bind(connection, sm=sm)
        connection.opened()

    async def _resumed(self, connection: Connection) -> bool:
        """Try to resume; what the server has not got is sent again, in order."""
        state = self._resumption
        if state is None or state.sm_id is None:
            return False
        connection.write(f"<resume xmlns='{names.SM}' h='{state.received}' previd={quoteattr(state.sm_id)}/>".encode())
        answer = await self._way_in.expect(connection, qualified(names.SM, "resumed"), qualified(names.SM, "failed"))
        if answer.tag == qualified(names.SM, "failed"):
            if answer.get("h") is not None:  # what it had taken in all the same (XEP-0198 section 5)
                self._acknowledged(answer)
            return False
        self._acknowledged(answer)
        for data, numbered in state.unacknowledged:
            connection.write(data)
            self.account.resent += numbered is not None
        self._note_move(resumed=True)
        return True

    async def _bind(self, connection: Connection, *, sm: bool) -> None:
        resource = f"<resource>{self._resource}</resource>" if self._resource else ""
        connection.write(f"<iq type='set' id='bind'><bind xmlns='{names.BIND}'>{resource}</bind></iq>".encode())
        result = await self._way_in.expect(connection, IQ_TAG)
        self.full_jid = result.findtext(f"{qualified(names.BIND, 'bind')}/{qualified(names.BIND, 'jid')}")
        if result.get("type") != "result" or not self.full_jid:
            raise StreamLost(Ending(SeenRung.RESET), "no resource")
        former, self._resumption = self._resumption, None
        self.account.stream_lost(None if former is None else former.numbers)
        if sm:
            await self._enable(connection)
        self._send(f"<presence>{capabilities(self.kind)}</presence>".encode())
        self._note_move(resumed=False)

    async def _enable(self, connection: Connection) -> None:
        connection.write(f"<enable xmlns='{names.SM}' resume='true'/>".encode())
        self._resumption = state = ClientResumption(None, 0)  # what is sent from here on counts (XEP-0198 section 4)
        while state.sm_id is None:
            # Stanzas may come before the answer; they count for nobody yet.
            incoming = await self._way_in.read(connection)
            if not isinstance(incoming, Element) or incoming.tag == ERROR_TAG:
                raise self._way_in.lost(incoming)
            if incoming.tag in STANZA_TAGS:
                self._stanza(incoming)
            elif incoming.tag == qualified(names.SM, "enabled"):
                state.sm_id = incoming.get("id")
                break
            else:
                raise self._way_in.lost(incoming)

    # ---- living ----

    async def _read_until_end(self, connection: Connection) -> Ending:
        ending: Ending | None = None
        while True:
            incoming = await connection.read()
            if isinstance(incoming, Element):
                if incoming.tag == ERROR_TAG:
                    ending = self._directions.stream_error(incoming)
                    self._quiet = True
                    self._begin_afresh()  # as most do after a stream error
                else:
                    self._element(incoming)
                continue
            if isinstance(incoming, EndOfFile):
                return ending or self._told() or Ending(SeenRung.CUT)
            if isinstance(incoming, StreamClosed):
                self._begin_afresh()
                self._write(STREAM_END if self.life is not Life.MOVING else b"")
                with trio.move_on_after(FINISH_SECONDS):
                    await connection.flush()
                    await connection.close_politely()
                return ending or self._told() or Ending(self._seen_end(connection))
            self.faults.append(str(incoming))
            return ending or Ending(SeenRung.CUT)

    @staticmethod
    def _seen_end(connection: Connection) -> SeenRung:
        """Return the form of the peer's end of the stream. On WebSocket it may say where to go, and nobody's library
        goes."""
        transport = connection.transport
        redirected = isinstance(transport, BrowserStream) and transport.see_other_uri is not None
        return SeenRung.SEE_OTHER_HOST if redirected else SeenRung.RESET

    def _begin_afresh(self) -> None:
        """Give up the stream for good; what was acknowledged on it still is."""
        if self._resumption is not None:
            self._resumption.sm_id = None

    def _told(self) -> Ending | None:
        return Ending(SeenRung.CXFR, self._going) if self._going is not None else None

    def _element(self, element: Element) -> None:
        if element.tag in STANZA_TAGS:
            if self._resumption is not None:
                self._resumption.received += 1
            if not self._deaf:
                self._stanza(element)
        elif element.tag == qualified(names.SM, "r") and self._resumption is not None:
            self._write(f"<a xmlns='{names.SM}' h='{self._resumption.received}'/>".encode())
        elif element.tag == qualified(names.SM, "a"):
            self._acknowledged(element)

    def _acknowledged(self, element: Element) -> None:
        if self._resumption is None:
            return
        try:
            acknowledged = self._resumption.acknowledge(int(element.get("h", "")))
        except ValueError as exc:
            self.faults.append(f"bad h: {exc}")
            return
        for numbered in acknowledged:
            self._taken_in(numbered)
        self._settle_if_done()

    def _taken_in(self, numbered: Numbered) -> None:
        """Note that the server has acknowledged it. Here it is the echo that counts."""

    def _stanza(self, element: Element) -> None:
        if element.tag == MESSAGE_TAG:
            self._message(element)
        elif element.tag == IQ_TAG and element.get("type") in ("get", "set"):
            self._request(element)

    def _message(self, element: Element) -> None:
        if element.get("type") == "error":
            number = element.get("id", "").removeprefix("n")
            error = child(element, names.CLIENT, "error")
            if number.isdecimal() and error is not None:
                self.account.bounced(int(number), wait=error.get("type") == "wait")
        else:
            self._take_numbered(element)
        self._settle_if_done()

    def _settle_if_done(self) -> None:
        if self._quiet and not self.account.in_flight:
            self._settled.set()

    def _take_numbered(self, element: Element) -> None:
        numbered = Numbered.parse(element.findtext(qualified(names.CLIENT, "body")))
        if numbered is None:
            return
        if "@" in numbered.origin and numbered.origin != self.account.origin:
            self._send(_message_to(element.get("from", ""), numbered))  # a peer's: its echo is ours to give
        else:
            self.account.saw(numbered)

    def _request(self, element: Element) -> None:
        payload = element[0] if len(element) else None
        tag = payload.tag if payload is not None else None
        if tag == qualified(names.CXFR, "query") and payload is not None and self.habits.knows_cxfr:
            self._transfer(element, payload)
        elif tag == qualified(names.PING, "ping"):
            self._answer(element, "")
        elif tag == qualified(names.DISCO_INFO, "query") and payload is not None:
            self._answer(element, disco_info(self.kind, payload.get("node")))
        elif self.habits.answers:
            reply = stanza.error_reply(element, StanzaCondition.SERVICE_UNAVAILABLE, "cancel", "unknown to me")
            if reply is not None:
                self._send(reply)

    def _transfer(self, iq: Element, query: Element) -> None:
        """Follow XEP-0051: the IQ counts only if our own server sent it."""
        if iq.get("from") not in (None, self.domain, self.bare_jid):
            self.faults.append(f"cxfr from {iq.get('from')}")
            return
        target = self._directions.transfer(query)
        if target is None:
            return
        if self.habits.answers:
            self._answer(iq, "")
        self._go(target)

    # ---- going ----

    def _go(self, target: Target | None) -> None:
        """Finish what is on its way, then close the stream. ``None``: for good."""
        if self.life is not Life.BOUND:
            return
        self.life = Life.MOVING
        self._going = target
        self._quiet = True
        self._told_to_go.set()
        self._settle_if_done()

    async def _finish(self) -> None:
        with trio.move_on_after(FINISH_SECONDS):
            await self._settled.wait()
        if self._resumption is not None:
            # The last acknowledgement: what comes behind it the server takes for undelivered (XEP-0198 section 5).
            self._write(f"<a xmlns='{names.SM}' h='{self._resumption.received}'/>".encode())
            self._deaf = not self._leaving  # who comes back gets it there
        self._write(STREAM_END)
        await trio.sleep(CLOSE_SECONDS)
        if self._connection is not None:
            self.faults.append("the peer did not close its stream")
            await self._connection.close()

    # ---- sending ----

    async def _send_traffic(self) -> None:
        """Send numbered messages until the stream is to be closed, and then close it."""
        await trio.lowlevel.checkpoint()
        while not self._quiet:
            self._send_again()
            if self.traffic is None:
                await self._nap(RESEND_SECONDS)
                continue
            await self._nap(self._rng.uniform(0.5, 1.5) * self.traffic.interval_seconds)
            self._send_next()
        if self.life is Life.MOVING:
            await self._finish()

    def _send_again(self) -> None:
        """Send again, at once on a new stream, then once a second at most: a server that says ``wait`` is not
        hammered."""
        now = trio.current_time()
        if now >= self._resend_at:
            self._resend_at = now + RESEND_SECONDS
            for numbered in self.account.again():
                self._send_numbered(numbered)

    def _send_next(self) -> None:
        if not self._quiet and self.traffic is not None:
            self._send_numbered(self.account.number())

    async def _nap(self, seconds: float) -> None:
        """Sleep; :meth:`_go` ends it early."""
        with trio.move_on_after(seconds):
            await self._told_to_go.wait()

    def _send_numbered(self, numbered: Numbered) -> None:
        peer = self.traffic.peer if self.traffic is not None else None
        self._send(_message_to(peer or f"echo.{self.domain}", numbered), numbered)

    def _answer(self, iq: Element, payload: str) -> None:
        to = f" to={quoteattr(iq.get('from', ''))}" if iq.get("from") else ""
        self._send(f"<iq type='result' id={quoteattr(iq.get('id', ''))}{to}>{payload}</iq>".encode())

    def _send(self, data: bytes, numbered: Numbered | None = None) -> None:
        """Send one stanza, counted where stream management is on."""
        self._write(data)
        state = self._resumption
        if state is not None:
            state.unacknowledged.append((data, numbered))
            self._unrequested += 1
            if self._unrequested >= ACK_EVERY:
                self._unrequested = 0
                self._write(f"<r xmlns='{names.SM}'/>".encode())

    def _write(self, data: bytes) -> None:
        if self._connection is not None and data:
            self._connection.write(data)


def _message_to(to: str, numbered: Numbered) -> bytes:
    return f"<message to={quoteattr(to)} id='n{numbered.number}' type='chat'><body>{numbered}</body></message>".encode()


def _first(group: BaseExceptionGroup[StreamLost]) -> StreamLost:
    """Return one of the exceptions that a nursery wrapped."""
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
