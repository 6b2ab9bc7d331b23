"""The relay loop: one trio task that carries the bytes of every session.

A relay on top of trio is slow because of a task switch and a wait per read, not because of Python or the parser. So the
sockets of all sessions are in one ``epoll`` of the pump's own; the pump's task waits for *that* to become readable, and
then serves every socket that is ready without waiting for anything: receive, scan, send the same bytes. A session has
no task of its own: a parked task would take more memory than the rest of the session. One task keeps the sessions
alive, so that cancelling it ends them all (:meth:`Pump.keep`), and one keeps their deadlines (:mod:`.deadlines`).

The pump decides nothing. Where the session's state allows it (``session.fast``), bytes go from one socket to the other
through the lane alone; else the session is asked, and its commands are carried out. Several sessions are asked together
(:mod:`.hearing`).

Where it was compiled, a *switchboard* (``_turn.c``) does the first by itself: the pump connects each leg on which there
is nothing to decide, and disconnects it before that changes (:meth:`Pump._settle`). The switchboard hands over
everything that it cannot simply pass on. This file can do all of it alone, and tests hold the two together.
:mod:`.poller` knows which of the two runs.

Rules:

* *Back-pressure.* A leg keeps the bytes that its socket does not take at once, and the other leg is not read until they
  are out. So a session holds at most one buffer, one held element and what was injected for each direction.
* *Fairness.* A turn is bounded in sockets, in time, and in the bytes and elements of each leg; then other tasks get
  theirs. A leg that brings more waits for the others, and they never wait for it (:mod:`.turns`).
* *Bytes that epoll does not see.* They can wait inside a transport, where TLS has decrypted more than was read. A leg
  is read until nothing is pending; if its turn is over before, or it may not be read now, it is remembered and served
  again.
* *A fault ends one session.* An exception from one session's handling closes that session and is logged.
* *One thing at a time.* A session whose commands are to be carried out decides nothing else before that. A listener
  that calls a session meanwhile has the call carried out behind these commands (:meth:`Pump.drive`).

Only :meth:`Pump.run` and :meth:`Pump.keep` await, so every other caller finds all sessions between two events, or has
its call put off until then.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from functools import partial
from typing import Final

import trio

from cxfr_proxy.events import emit
from cxfr_proxy.net.arrival import Arrival
from cxfr_proxy.net.transport import Transport, TransportFault, Verdict
from cxfr_proxy.relay.deadlines import SessionDeadlines
from cxfr_proxy.relay.hearing import TOGETHER, Hearing
from cxfr_proxy.relay.live_session import Decide, Leg, LiveSession, ReturnedConnection, SessionListener
from cxfr_proxy.relay.openings import Openings
from cxfr_proxy.relay.poller import ALL_BUT_IN, ALL_BUT_OUT, IN, OUT, Poller
from cxfr_proxy.relay.turns import BEHIND_SHARE, COSTLY_SECONDS, SHARE_SECONDS, Queue, clock
from cxfr_proxy.session.commands import (
    Close,
    Dial,
    Drop,
    EndOutput,
    ExchangeNode,
    Forgo,
    Redirect,
    Report,
    Reroute,
    Send,
    SessionCommand,
    Side,
    Upgrade,
    joined,
)
from cxfr_proxy.session.session import Session
from cxfr_proxy.session.tables import Intake
from cxfr_proxy.tasks import Task, isolated, keep_going, report_fault, start
from cxfr_proxy.xmpp.framing.lane import Lane

STEPWISE_BYTES: Final = 4_096
"""Most bytes that are read at once while each element is looked at."""
MAX_UNSENT: Final = 65_536
"""Most bytes that may wait for a side that is still read: it may send requests, and take none of the answers."""
READS_PER_TURN: Final = 4
"""Most reads of a leg with bytes pending: TLS gives one record of at most 16 KiB a read."""
_CLIENT: Final = Side.CLIENT
_NODE: Final = Side.NODE
_NOTHING: Final = Intake.NOTHING
_BYTES: Final = Intake.BYTES

_log = logging.getLogger(__name__)


class Pump:
    """See the module. ``write_stall_timeout`` in seconds: how long a leg may take no byte of what waits for it.

    ``share_seconds`` and ``costly_seconds`` as :data:`SHARE_SECONDS` and :data:`COSTLY_SECONDS`.
    """

    def __init__(
        self,
        *,
        write_stall_timeout: float,
        share_seconds: float = SHARE_SECONDS,
        costly_seconds: float = COSTLY_SECONDS,
    ) -> None:
        self._share_seconds = share_seconds
        self._costly_seconds = costly_seconds
        self._poller = Poller()
        self._legs = self._poller.legs
        self._sessions: dict[int, LiveSession] = {}
        self._again: Queue[Leg] = Queue()  # legs with pending bytes, which epoll does not see
        self._behind: Queue[Leg] = Queue()  # legs that are not read until the session has dealt with what they brought
        self._hearing = Hearing(costly_seconds, self._fail)
        self._turning = False
        self._now = 0.0
        self.deadlines = SessionDeadlines(self._sessions, self._expire, write_stall_timeout)
        self._nobody_left: trio.Event | None = None  # not None: keep() waits for it
        self.openings = Openings(self._poller, self._look_who_is_left)  # connections without a session

    async def run(self) -> None:
        """Serve until cancelled. :meth:`keep` ends the sessions, and :meth:`close` comes last."""
        async with trio.open_nursery() as nursery:
            start(nursery, Task.TIMERS, self.deadlines.run)
            start(nursery, Task.TIMERS, self.openings.timers.run)
            await keep_going(Task.PUMP, self._run)

    async def keep(self) -> None:
        """Wait until no session is left, nor a connection without one; end all of them when cancelled. One task does so
        for all of them; if there is one already, this returns at once.
        """
        if self._nobody_left is not None:
            return
        try:
            while self._sessions or self.openings:
                self._nobody_left = trio.Event()
                await self._nobody_left.wait()
        finally:
            self._nobody_left = None
            self.openings.close_all()
            # A copy: ending a session removes it, and its listener may end others.
            for live in list(self._sessions.values()):
                self.discard(live)

    async def _run(self) -> None:
        while True:
            if self._again or self._behind:
                # epoll may have nothing to report although there is work, so waiting for it could take for ever.
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._poller.fileno())
            self._turn()

    def close(self) -> None:
        """Release what the pump itself holds; not before its sessions are over."""
        self._poller.close()

    def _turn(self) -> None:
        self._turning = True
        try:
            self._now = self.openings.now = trio.current_time()
            if self._again:
                self._again.serve(self._serve_pending, self._share_seconds)
            self._serve_ready(clock() + self._share_seconds)
            if self._behind:
                self._behind.serve(self._catch_up, self._share_seconds * BEHIND_SHARE)
            if self.openings.new:
                self.openings.begin_new()
        finally:
            self._turning = False

    def _serve_ready(self, until: float) -> None:
        """Serve what epoll reports, again and again until it has nothing to report, or the time is over."""
        while True:
            try:
                self._poller.serve(self._now, until - clock(), self)
            except Exception as exc:
                self._fail_what_was_served(exc)
            if not self._hearing.waiting:
                return
            self._hear()  # answers to what is sent now are ready soon
            if clock() >= until:
                return

    def _fail_what_was_served(self, exc: Exception) -> None:
        """End the session whose leg the switchboard was serving; raise the exception again if there is none."""
        leg = self._poller.leg_at_fault()
        if leg is None:
            raise exc
        self._fail(leg.live, exc)

    # --- what the poller finds

    def on_ready(self, fd: int, events: int) -> None:
        leg = self._legs.get(fd)
        if leg is not None:
            live = leg.live
            if live.unheard:
                self._hear()  # in the order in which it came; the leg may be gone behind that
            if leg.interest:
                self._serve(leg, events)
                # At once where the other leg is connected: the switchboard scans what comes there before it tells us,
                # in the state of which the session would hear too late.
                if len(self._hearing.waiting) >= TOGETHER or (live.unheard and leg.other.connected is not None):
                    self._hear()
            elif leg.fd >= 0:
                self._poller.ignore(leg)
        elif not self.openings.on_ready(fd):
            self._poller.woken(fd)

    def on_ended(self, fd: int) -> None:
        self._end_input(self._legs[fd])

    def on_scanned(self, fd: int, data: bytes, boundary: int, used: int) -> None:
        leg = self._legs[fd]
        live = leg.live
        try:
            lane = live.session.fast[leg.side]
            assert lane is not None
            self._pass_on(leg, lane, lane.scanned(data, boundary, used))
        except Exception as exc:
            self._fail(live, exc)

    def on_unsent(self, fd: int, data: bytes) -> None:
        leg = self._legs[fd].other
        live = leg.live
        try:
            leg.send(data, self._now)
            self._settle(live)
        except Exception as exc:
            self._fail(live, exc)

    def _serve_later(self, leg: Leg, queue: Queue[Leg]) -> None:
        """Serve this leg when its turn comes, even if epoll has nothing to report of it."""
        queue.add(leg)
        if not self._turning:  # the pump's task may be waiting for epoll
            self._poller.wake()

    # --- sessions come and go

    def relay(
        self,
        session: Session,
        client: Transport,
        node: Transport,
        *,
        session_id: int,
        arrival: Arrival,
        listener: SessionListener,
    ) -> LiveSession:
        """Take both transports over, also from the opening that has waited for them. The caller calls
        :meth:`LiveSession.start`, and awaits :meth:`keep` next.

        ``session_id`` must be unique.
        """
        live = LiveSession(self, session, session_id, arrival, listener)
        self._pair(live, Leg(live, _CLIENT, client), Leg(live, _NODE, node))
        for leg in live.legs:
            self._poller.add(leg, self.openings.hand_over(leg.transport))
        self._sessions[session_id] = live
        return live

    def offer_node(self, live: LiveSession, transport: Transport, decide: Decide) -> None:
        """See :meth:`LiveSession.offer_node`."""
        if live.closing:
            transport.close()
            return
        self.drop_spare_node(live)
        live.spare_node = transport
        self.drive(live, decide)

    def exchange_node(self, live: LiveSession) -> None:
        """Put the connection that was offered in the place of the node's, which is closed at once.

        All bytes to and from the node are the new connection's from here on. Bytes that the old one had not taken are
        dropped, and logged as such. The old connection's TLS ends in good order if the session has ended its output
        before (``EndOutput``); else it is cut. Raises ``RuntimeError`` if nothing was offered.
        """
        transport, live.spare_node = live.spare_node, None
        if transport is None:
            raise RuntimeError("there is no other connection to put in the node's place")
        client, former = live.legs
        self._drop(former)
        self._pair(live, client, Leg(live, _NODE, transport))
        del former.live, former.other  # reference cycles, which only the collector could free
        self._poller.add(live.legs[_NODE])

    @staticmethod
    def drop_spare_node(live: LiveSession) -> None:
        """Close the connection that was offered, if there is one."""
        if live.spare_node is not None:
            live.spare_node.close()
            live.spare_node = None

    @staticmethod
    def _pair(live: LiveSession, client: Leg, node: Leg) -> None:
        live.legs = client, node
        client.other, node.other = node, client

    def discard(self, live: LiveSession) -> None:
        """Close what is still open of a session, whatever state it is in."""
        live.stop()
        self._close(live, at_once=True)

    def ping(self, live: LiveSession) -> None:
        """See :meth:`LiveSession.ping`."""
        websocket = live.websocket
        if websocket is not None:
            websocket.ping()
            self._settle(live)  # there may be no room for it yet

    def _expire(self, live: LiveSession) -> None:
        """Act on a deadline that is over: the session's, or that of a leg that takes no bytes."""
        now = trio.current_time()
        for leg in live.legs:
            if self.deadlines.is_stuck(leg, now):
                if live.closing:
                    self._drop(leg)
                else:
                    self.drive(live, partial(live.session.stalled, leg.side))
        is_over = self.deadlines.is_over(live, now)
        if live.closing:
            self._close(live, at_once=is_over)  # else the deadline would be over again at once
        elif is_over:
            self.drive(live, live.session.tick)
        self._settle(live)

    # --- serving a leg

    def _serve(self, leg: Leg, events: int) -> None:
        live = leg.live
        try:
            # Not "& OUT" and "& IN": EPOLLERR and EPOLLHUP are for both, which then find out what is wrong.
            if events & ALL_BUT_IN and (leg.unsent or leg.transport.wants_write):
                leg.transport.write_own()  # first: OpenSSL takes no new data before it has written its own
                leg.flush(self._now)
                self._settle(live)
            if leg.interest & IN and events & ALL_BUT_OUT:
                self._read(leg)
        except Exception as exc:
            self._fail(live, exc)

    def _serve_pending(self, leg: Leg) -> None:
        """Serve a leg with bytes of which epoll does not know."""
        self._serve(leg, IN)
        self._hear()

    def _read(self, leg: Leg) -> None:
        live, side, transport = leg.live, leg.side, leg.transport
        session, received = live.session, self._poller.received_here
        for _ in range(READS_PER_TURN):
            lane = session.fast[side]  # again each time: what was read may have changed it
            try:
                data = transport.read_now(leg.read_size if lane is not None else STEPWISE_BYTES)
            except TransportFault as fault:
                self._look(leg, partial(session.client_at_fault, fault.condition, fault.text))
                if not leg.interest & IN:
                    return
                continue
            except OSError as exc:
                if transport.judge(exc, Verdict.WAIT_READABLE) is not Verdict.OVER:
                    if transport.wants_write:
                        self._wait_to_write(leg)
                    return
                data = b""  # treat a broken connection as one that has ended
            if not data:
                self._end_input(leg)
                return
            live.heard = self._now
            received[side] += len(data)
            if lane is None:
                self._hearing.add(live, leg, data)
                return
            self._pass_on(leg, lane, lane.scan(data))
            if not leg.interest & IN or not transport.pending():
                return
        self._serve_later(leg, self._again)

    def _hear(self) -> None:
        """Ask the sessions about what was read of their legs, and then carry out what they have decided."""
        for live, leg, commands in self._hearing.ask(self._now):
            if live.closing:  # another session's listener has ended it
                live.driven = False
                continue
            self._carry_out_all(live, commands)
            if leg.interest & IN and leg.transport.pending():
                self._serve_later(leg, self._again)

    def _wait_to_write(self, leg: Leg) -> None:
        """Stop reading until the transport has written: it cannot be read before, and epoll would go on reporting
        it."""
        if leg.stuck_since is None:
            leg.stuck_since = self._now
        self._settle(leg.live)

    def _look(self, leg: Leg, decide: Decide) -> None:
        """Have the session deal with what this leg has brought, and note whether that took long."""
        live, began = leg.live, clock()
        self.drive(live, decide)
        leg.costly = clock() - began > self._costly_seconds
        # Only now: drive() has settled the leg before it was known to be costly.
        if leg.costly and leg.fd >= 0:
            self._settle(live)

    def _catch_up(self, leg: Leg) -> None:
        """Serve a leg that was behind."""
        if leg.intake is _NOTHING:
            return  # _settle() queues it again as soon as it may be read
        live = leg.live
        leg.costly = False
        if leg.intake is not _BYTES:
            self._look(leg, partial(live.session.read_on, leg.side))
            return
        self._settle(live)
        if leg.fd >= 0:
            self._serve_pending(leg)

    def _end_input(self, leg: Leg) -> None:
        leg.eof = True
        self.drive(leg.live, partial(leg.live.session.eof, leg.side))

    def _pass_on(self, leg: Leg, lane: Lane, ready: bytes) -> None:
        """Send on what the lane has released, or have the session look at it first."""
        live, other = leg.live, leg.other
        if lane.has_events:
            self._look(leg, partial(live.session.receive_scanned, leg.side, ready))
        elif ready:
            other.send(ready, self._now)
            if other.unsent:
                self._settle(live)

    # --- carrying out

    def drive(self, live: LiveSession, decide: Decide) -> None:
        """Let the session decide, told the time, and carry out its commands. A fault in it ends this session alone.

        A listener that hears the session's reports may come here again. Then its commands are still being carried out,
        and the next ones would overtake them: so the session is asked when that is done, before this returns to the
        first caller. A session that is over is not asked any more.
        """
        if live.unheard:
            self._hear()  # first: an answer to this may have the switchboard pass on what comes behind it
        if live.driven:
            live.deferred += (decide,)
            return
        if live.closing:
            return
        if not self._turning:  # a turn is short, and has read the clock at its beginning
            self._now = trio.current_time()
        live.driven = True
        try:
            commands = decide(self._now)
        except Exception as exc:
            self._fail(live, exc)
            live.driven = False
        else:
            self._carry_out_all(live, commands)

    def _carry_out_all(self, live: LiveSession, commands: Sequence[SessionCommand]) -> None:
        """Carry out what the session has decided, and let it decide what was put off meanwhile."""
        try:
            while True:
                for command in joined(commands) if len(commands) > 1 else commands:
                    if type(command) is Send:
                        live.legs[command.side].send(command.data, self._now)
                    else:
                        self._carry_out(live, command)
                self._settle(live)
                if not live.deferred or live.closing:
                    break
                decide, *later = live.deferred
                live.deferred = tuple(later)
                commands = decide(self._now)
        except Exception as exc:
            self._fail(live, exc)
        finally:
            live.driven = False

    def _carry_out(self, live: LiveSession, command: SessionCommand) -> None:
        match command:
            case Report(event):
                live.listener.session_event(live, event)
            case EndOutput(side, silent):
                # Not at once: unsent bytes go first. _settle() ends the output when they are out.
                live.legs[side].output_ends = True
                live.legs[side].ends_silently = silent
            case Drop(side):
                self._drop(live.legs[side])
            case Close(at_once):
                self._close(live, at_once=at_once)
            case Redirect(url):
                live.redirect(url)
            case Dial():
                live.listener.session_dials(live, command)
            case ExchangeNode():
                self.exchange_node(live)
            case Forgo():
                self.drop_spare_node(live)
                live.listener.session_forgoes(live)
            case Upgrade() | Reroute():
                self._give_back(live, command)

    def _fail(self, live: LiveSession, exc: Exception) -> None:
        report_fault(Task.SESSION, exc, session=live.id)
        live.closing = True  # first: a listener that hears of it may not ask the session anything any more
        with contextlib.suppress(Exception):  # the session is faulty: stopping it may fail, too
            for command in live.session.stop(self._now):
                if isinstance(command, Report):
                    live.listener.session_event(live, command.event)
        self._close(live, at_once=True)

    def _settle(self, live: LiveSession) -> None:
        """Bring epoll, the switchboard and the timer in line with what each leg wants now."""
        session = live.session
        for leg in live.legs:
            if leg.fd < 0:
                continue
            if leg.output_ends and not leg.unsent and not leg.is_read_first:
                leg.end_output()
            blocked, unsent = leg.transport.wants_write, leg.unsent
            interest = OUT if blocked or unsent else 0
            # Back-pressure both ways: what the other side has not taken is all that is held for it, and a side that
            # takes no answers gets no further request read. OpenSSL reads nothing before it has written its own.
            if blocked or leg.eof or live.closing or leg.other.unsent or (unsent and len(unsent) > MAX_UNSENT):
                leg.intake = _NOTHING
            else:
                leg.intake = session.intake(leg.side)
                if leg.intake is _BYTES and not leg.costly:
                    interest |= IN
                elif leg.intake is not _NOTHING:
                    self._serve_later(leg, self._behind)
            if interest != leg.interest:
                self._poller.register(leg, interest)
                if interest & IN and leg.transport.pending():  # epoll will not report bytes that TLS holds already
                    self._serve_later(leg, self._again)
            # Most calls are made while client and node negotiate, when there is nothing to connect: they are spared
            # here.
            if leg.connected is not None or session.fast[leg.side] is not None:
                self._poller.connect(leg)
        if live.closing:
            self._close(live, at_once=False)
        self.deadlines.keep(live)

    def received(self) -> list[int]:
        """Return how many bytes sessions have read so far, by side, without those of TLS and of WebSocket's frames."""
        return self._poller.received()

    def last_heard(self, live: LiveSession) -> float:
        """Return when bytes came last, from either side."""
        return self._poller.last_heard(live)

    def _close(self, live: LiveSession, *, at_once: bool) -> None:
        live.closing = True
        self.drop_spare_node(live)
        for leg in live.legs:
            if at_once or not leg.unsent:
                self._drop(leg)
        if all(leg.fd < 0 for leg in live.legs) and self._sessions.pop(live.id, None) is not None:
            self._on_over(live)

    def _on_over(self, live: LiveSession) -> None:
        self._look_who_is_left()
        with isolated(Task.SESSION, session=live.id):
            live.over()

    def _look_who_is_left(self) -> None:
        if self._nobody_left is not None and not self._sessions and not self.openings:
            self._nobody_left.set()

    def _give_back(self, live: LiveSession, command: Upgrade | Reroute) -> None:
        client = live.legs[_CLIENT]
        live.returned = ReturnedConnection(client.transport, live.session.domain, bytes(client.unsent), command)
        self._forget(client)
        live.closing = True
        live.listener.session_returned(live, live.returned)

    def _drop(self, leg: Leg) -> None:
        if leg.fd < 0:
            return
        if leg.unsent:
            emit(_log, "bytes-dropped", session=leg.live.id, side=leg.side.name.lower(), bytes=len(leg.unsent))
        elif leg.output_ends:
            leg.end_output()
        elif leg.transport.wants_write:
            leg.transport.write_own()  # it may be the closing alert, and there may be room for it by now
        self._forget(leg)
        leg.transport.close()

    def _forget(self, leg: Leg) -> None:
        # Out of epoll before the descriptor is closed: its number may go to the next connection at once.
        self._poller.remove(leg)
        leg.unsent.clear()
        leg.stuck_since = None
        self._again.discard(leg)
        self._behind.discard(leg)
