"""The relay loop: one trio task that carries the bytes of every session.

What costs in a relay on top of trio is not Python and not the parser, it is a task switch and a wait per read. So the
sockets of all sessions are in one ``epoll`` of the pump's own; the pump's task waits for *that* to become readable, and
then serves every socket that is ready without waiting for anything: receive, scan, send the same bytes. A session has
no task of its own: parked, it would take more memory than all the rest of it. One task keeps the sessions' lives, so
that who cancels it ends them all (:meth:`Pump.keep`), and one their deadlines (:mod:`.timers`).

The pump decides nothing. Where the session's state allows it (``session.fast``), bytes go from one socket to the other
through the lane alone; else the session is asked, and its commands are carried out.

Where it was compiled, a *switchboard* (``_turn.c``) does the first by itself: the pump connects each leg on which there
is nothing to decide, and disconnects it before that changes (:meth:`Pump._settle`). What it cannot just pass on, it
hands over. This file can do all of it alone; tests hold the two together.

Rules:

* *Back-pressure.* What a socket does not take at once is kept with its leg, and the other leg is not read until it is
  out. So a session holds at most one buffer, one held element and what was injected for each direction.
* *Fairness.* A turn is bounded in sockets, in time, and in what is read and looked at of one of them; then other tasks
  get theirs. Who brings more than that waits for the others, never they for him (:mod:`.turns`).
* *TLS.* Decrypted bytes can wait inside the TLS socket where epoll does not see them. A leg is read until it is empty;
  if its turn is over before, or it may not be read now, it is remembered and served again.
* *A fault ends one session.* An exception from one session's handling closes that session and is logged.

Nothing in here awaits but :meth:`Pump.run` and :meth:`Pump.keep`, so whatever else calls in finds every session between
two events.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from cxfr_proxy.events import emit
from cxfr_proxy.net.close_notify import close_notify
from cxfr_proxy.net.tls_errors import WANTS, is_over
from cxfr_proxy.relay import engine
from cxfr_proxy.relay.relayed import Leg, Relayed, Returned
from cxfr_proxy.relay.timers import Timers
from cxfr_proxy.relay.turns import BEHIND_SHARE, COSTLY_SECONDS, SHARE_SECONDS, Queue, clock
from cxfr_proxy.session.commands import (
    Close,
    Command,
    Drop,
    EndOutput,
    Event,
    Report,
    Reroute,
    Send,
    Side,
    Upgrade,
    joined,
)
from cxfr_proxy.session.session import Session
from cxfr_proxy.tasks import Task, isolated, keep_going, report_fault, start
from cxfr_proxy.xmpp.framing.lane import Lane

if TYPE_CHECKING:
    from cxfr_proxy.relay._turn import Switchboard

STEPWISE_BYTES: Final = 4_096
"""As much is read at once while each element is looked at."""
MAX_UNSENT: Final = 65_536
"""A side for which more than this waits is not read any more: it may ask for answers that it doesn't take."""
READS_PER_TURN: Final = 4
"""Of a TLS leg, which gives one record of at most 16 KiB a read."""
RECORD_BYTES: Final = 16_384
"""As much as one TLS record holds (RFC 8446 section 5.1)."""
MAX_EVENTS: Final = 256
"""Sockets served before other tasks run."""

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT

_FEW: Final = 3
"""Commands that are not worth looking through."""
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
        self.write_stall_timeout = write_stall_timeout
        self._share_seconds = share_seconds
        self._costly_seconds = costly_seconds
        self._epoll = select.epoll()
        self._board = engine.new_switchboard(self._epoll)
        self._sessions: dict[int, Relayed] = {}
        self._legs: dict[int, Leg] = {}
        self._ready: deque[tuple[int, int]] = deque()  # what epoll has reported, if no switchboard asks it
        self._again = Queue()  # TLS legs with bytes that epoll does not see
        self._behind = Queue()  # legs that are not read, for what they have brought is not seen to yet
        self._turning = False
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._waker, _IN)
        self._now = 0.0
        self.timers = Timers(self._ring)
        self._nobody_left: trio.Event | None = None  # somebody waits for it
        self.on_returned: Callable[[Relayed], object] = _nothing
        """Told that a session has given its client's socket back (:attr:`Relayed.returned`)."""

    async def run(self) -> None:
        """Serve until cancelled. The sessions end with :meth:`keep`, and then comes :meth:`close`."""
        async with trio.open_nursery() as nursery:
            start(nursery, Task.TIMERS, self.timers.run)
            await keep_going(Task.PUMP, self._run)

    async def keep(self) -> None:
        """Wait until no session is left, and when cancelled, end those there are.

        One task does so for all: where there is one, this returns at once.
        """
        if self._nobody_left is not None:
            return
        try:
            while self._sessions:
                self._nobody_left = trio.Event()
                await self._nobody_left.wait()
        finally:
            self._nobody_left = None
            for relayed in list(self._sessions.values()):
                self.discard(relayed)

    async def _run(self) -> None:
        while True:
            if self._again or self._behind:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
            self._turn()

    def close(self) -> None:
        """Release what the pump itself holds; not before its sessions are over."""
        self._epoll.close()
        os.close(self._waker)

    def _turn(self) -> None:
        self._turning = True
        try:
            self._now = trio.current_time()
            if self._again:
                self._again.serve(self._read_again, self._share_seconds)
            if self._board is None:
                self._serve_all()
            else:
                self._serve_all_natively(self._board)
            if self._behind:
                self._behind.serve(self._catch_up, self._share_seconds * BEHIND_SHARE)
        finally:
            self._turning = False

    def _serve_all(self) -> None:
        # Until nothing is ready: to ask once more costs less than to go back to trio's loop and come here again.
        until, ready = clock() + self._share_seconds, self._ready
        for _ in range(MAX_EVENTS):
            if not ready:
                ready.extend(self._epoll.poll(0, MAX_EVENTS))
                if not ready:
                    return
            fd, events = ready.popleft()
            self._on_ready(fd, events)
            if clock() >= until:
                return

    def _serve_all_natively(self, board: Switchboard) -> None:
        """The same; what passes without a question is not heard of here."""
        try:
            board.turn(
                self._now, self._share_seconds, self._on_ready, self._on_ended, self._on_scanned, self._on_unsent
            )
        except Exception as exc:
            if board.serving not in self._legs:
                raise
            self._fail(self._legs[board.serving].owner, exc)

    def _on_ready(self, fd: int, events: int) -> None:
        leg = self._legs.get(fd)
        if leg is not None:
            self._serve(leg, events)
        elif fd == self._waker:
            os.eventfd_read(fd)

    def _on_ended(self, fd: int) -> None:
        """The switchboard has met the end of what comes in there."""
        self._end_input(self._legs[fd])

    def _on_scanned(self, fd: int, data: bytes, boundary: int, used: int) -> None:
        """The switchboard has read this and scanned ``used`` bytes of it, and it is not to be sent as it is."""
        leg = self._legs[fd]
        owner = leg.owner
        try:
            lane = owner.session.fast[leg.side]
            assert lane is not None
            self._pass_on(leg, lane, lane.scanned(data, boundary, used))
        except Exception as exc:
            self._fail(owner, exc)

    def _on_unsent(self, fd: int, data: bytes) -> None:
        """The switchboard could not send what has come from there."""
        leg = self._legs[fd].other
        owner = leg.owner
        try:
            self._send(leg, data)
            self._settle(owner)
        except Exception as exc:
            self._fail(owner, exc)

    def _serve_later(self, leg: Leg, queue: Queue) -> None:
        """Serve this leg when its turn comes, even if epoll has nothing to say about it."""
        queue.add(leg)
        if not self._turning:
            os.eventfd_write(self._waker, 1)

    # --- sessions come and go

    def relay(
        self,
        session: Session,
        client: socket.socket,
        node: socket.socket,
        *,
        session_id: int,
        client_address: str,
        client_port: int | None,
        observer: Callable[[Relayed, Event], None],
        on_over: Callable[[Relayed], None],
    ) -> Relayed:
        """Take both sockets over. The caller calls :meth:`Relayed.start`, and awaits :meth:`keep` next.

        ``session_id`` is no other session's.
        """
        relayed = Relayed(self, session, session_id, client_address, client_port, observer, on_over)
        self._sessions[session_id] = relayed
        relayed.legs = (Leg(relayed, Side.CLIENT, client), Leg(relayed, Side.NODE, node))
        for leg in relayed.legs:
            leg.other = relayed.legs[1 - leg.side]
            self._legs[leg.fd] = leg
        return relayed

    def discard(self, relayed: Relayed) -> None:
        """Close what is still open of a session, whatever state it is in."""
        if not relayed.closing:
            relayed.stop()
        self._close(relayed, at_once=True)

    def _ring(self, when: float, session_id: int) -> None:
        relayed = self._sessions.get(session_id)
        if relayed is not None and relayed.alarm == when:
            relayed.alarm = math.inf
            self._expire(relayed)
            relayed.wind()

    def _expire(self, relayed: Relayed) -> None:
        """The timer has run out: of the session, or of a leg that takes no bytes."""
        now = trio.current_time()
        for leg in relayed.legs:
            if leg.stuck_since is not None and now >= leg.stuck_since + self.write_stall_timeout:
                if relayed.closing:
                    self._drop(leg)
                else:
                    self.drive(relayed, partial(relayed.session.stalled, leg.side))
        if relayed.closing:
            self._close(relayed, at_once=False)
            return
        due = relayed.session.due(backlogged=bool(relayed.legs[Side.CLIENT].unsent))
        if due is not None and now >= due:
            self.drive(relayed, relayed.session.tick)

    # --- serving a leg

    def _serve(self, leg: Leg, events: int) -> None:
        owner = leg.owner
        try:
            if events & ~_IN and (leg.unsent or leg.owes):
                leg.owes = False
                self._flush(leg)
                self._settle(owner)
            if leg.interest & _IN and events & ~_OUT:
                self._read(leg)
        except Exception as exc:
            self._fail(owner, exc)

    def _read(self, leg: Leg) -> None:
        owner, side, tls = leg.owner, leg.side, leg.tls
        session = owner.session
        for _ in range(READS_PER_TURN):
            lane = session.fast[side]
            try:
                most = leg.most if lane is not None else STEPWISE_BYTES
                data = leg.sock.recv(most) if tls is None else tls.read(most)
            except ssl.SSLWantReadError:
                return
            except ssl.SSLWantWriteError:
                leg.owes = True
                if leg.stuck_since is None:
                    leg.stuck_since = self._now
                self._settle(owner)
                return
            except OSError as exc:
                if not is_over(exc, tls=tls is not None):
                    return
                data = b""  # a broken connection is an ended one
            if not data:
                self._end_input(leg)
                return
            owner.heard = self._now
            if lane is None:
                self._look(leg, partial(session.receive, side, data))
            else:
                self._pass_on(leg, lane, lane.scan(data))
            if tls is None or not leg.interest & _IN or not tls.pending():
                return
        self._serve_later(leg, self._again)

    def _look(self, leg: Leg, decide: Callable[[float], Sequence[Command]]) -> None:
        """Have the session see to what this leg has brought."""
        owner, began = leg.owner, clock()
        self.drive(owner, decide)
        leg.costly = clock() - began > self._costly_seconds
        if leg.costly and leg.fd >= 0:
            self._settle(owner)

    def _read_again(self, leg: Leg) -> None:
        self._serve(leg, _IN)

    def _catch_up(self, leg: Leg) -> None:
        """It has waited for its turn."""
        if not self._may_read(leg):
            return  # and is queued again once it may
        owner = leg.owner
        leg.costly = False
        if owner.session.is_behind(leg.side):
            self._look(leg, partial(owner.session.read_on, leg.side))
            return
        self._settle(owner)
        if leg.fd >= 0:
            self._serve(leg, _IN)

    def _end_input(self, leg: Leg) -> None:
        leg.eof = True
        self.drive(leg.owner, partial(leg.owner.session.eof, leg.side))

    def _pass_on(self, leg: Leg, lane: Lane, ready: bytes) -> None:
        """What the lane has let out of what this leg has brought."""
        owner, other = leg.owner, leg.other
        if lane.has_events:
            self._look(leg, partial(owner.session.receive_scanned, leg.side, ready))
        elif ready:
            self._send(other, ready)
            if other.unsent:
                self._settle(owner)

    def _send(self, leg: Leg, data: bytes) -> None:
        if leg.unsent:
            leg.unsent += data
            return
        try:
            sent = self._write(leg, data)
        except OSError:
            return  # it is gone: reading from it will say so, after what it has sent before
        if sent < len(data):
            leg.unsent += memoryview(data)[sent:]
            leg.stuck_since = self._now

    def _write(self, leg: Leg, data: bytes | bytearray) -> int:
        """How much of it the socket has taken; an ``OSError`` says that it is gone."""
        tls = leg.tls
        try:
            if tls is None:
                return leg.sock.send(data)
            if len(data) <= RECORD_BYTES:
                return tls.write(data)
            return self._write_records(tls, data)
        except OSError as exc:
            if is_over(exc, tls=tls is not None):
                raise
            return 0

    @staticmethod
    def _write_records(tls: ssl.SSLSocket, data: bytes | bytearray) -> int:
        """OpenSSL takes all or nothing, so it gets no more at once than a record holds."""
        taken = 0
        with memoryview(data) as view, contextlib.suppress(*WANTS):
            while taken < len(data):
                taken += tls.write(view[taken : taken + RECORD_BYTES])
        return taken

    def _flush(self, leg: Leg) -> None:
        if not leg.unsent:
            leg.stuck_since = None
            return
        try:
            sent = self._write(leg, leg.unsent)
        except OSError:
            sent = len(leg.unsent)  # it is gone, as in _send
        if not sent:
            return
        del leg.unsent[:sent]
        leg.stuck_since = self._now if leg.unsent else None
        if not leg.unsent:
            leg.owner.session.caught_up(leg.side, self._now)

    # --- carrying out

    def drive(self, relayed: Relayed, decide: Callable[[float], Sequence[Command]]) -> None:
        """Let the session decide, told the time, and do what it says. A fault in it ends this session alone."""
        self._now = trio.current_time()
        try:
            commands = decide(self._now)
            for command in commands if len(commands) < _FEW else joined(commands):
                self._carry_out(relayed, command)
            self._settle(relayed)
        except Exception as exc:
            self._fail(relayed, exc)

    def _carry_out(self, relayed: Relayed, command: Command) -> None:
        match command:
            case Send(side, data):
                self._send(relayed.legs[side], data)
            case Report(event):
                relayed.report(event)
            case EndOutput(side, silent):
                relayed.legs[side].output_ends = True
                relayed.legs[side].ends_silently = silent
            case Drop(side):
                self._drop(relayed.legs[side])
            case Close(at_once):
                self._close(relayed, at_once=at_once)
            case Upgrade() | Reroute():
                self._give_back(relayed, command)

    def _fail(self, relayed: Relayed, exc: Exception) -> None:
        report_fault(Task.SESSION, exc, session=relayed.id)
        with contextlib.suppress(Exception):  # it may fail again
            for command in relayed.session.stop(self._now):
                if isinstance(command, Report):
                    relayed.report(command.event)
        self._close(relayed, at_once=True)

    def _settle(self, relayed: Relayed) -> None:
        """Bring epoll and the timer in line with what each leg wants now."""
        for leg in relayed.legs:
            if leg.fd < 0:
                continue
            if leg.output_ends and not leg.unsent and not self._is_read_first(leg):
                self._end_output(leg)
            interest = _OUT if leg.unsent or leg.owes else 0
            if self._may_read(leg):
                if leg.costly or relayed.session.is_behind(leg.side):
                    self._serve_later(leg, self._behind)
                else:
                    interest |= _IN
            self._register(leg, interest)
            self._connect(leg)
        if relayed.closing:
            self._close(relayed, at_once=False)
        relayed.wind()

    def _may_read(self, leg: Leg) -> bool:
        blocked = leg.owes or leg.other.unsent or len(leg.unsent) > MAX_UNSENT
        return not (leg.eof or leg.owner.closing or blocked) and leg.owner.session.wants(leg.side)

    def _register(self, leg: Leg, interest: int) -> None:
        if interest == leg.interest:
            return
        if not interest:
            self._epoll.unregister(leg.fd)  # or a hang-up would be reported for ever
        elif leg.interest:
            self._epoll.modify(leg.fd, interest)
        else:
            self._epoll.register(leg.fd, interest)
        leg.interest = interest
        if interest & _IN and leg.tls is not None and leg.tls.pending():
            self._serve_later(leg, self._again)

    def _connect(self, leg: Leg) -> None:
        """Bring the switchboard in line: what may be read, and passes without a question, it passes on by itself."""
        if self._board is None:
            return
        other = leg.other
        lane = leg.owner.session.fast[leg.side] if leg.interest & _IN else None
        scanner = lane.scanner if lane is not None else None
        if scanner is leg.connected:
            return
        if scanner is not None:
            receive = leg.tls.read if leg.tls is not None else None
            send = other.tls.write if other.tls is not None else None
            # A TLS socket gives one record at a time, and there is room for it: nothing is left inside.
            self._board.connect(leg.fd, other.fd, scanner, max(leg.most, RECORD_BYTES), receive, send)
            leg.connected = scanner
        else:
            self._disconnect(leg)

    def _disconnect(self, leg: Leg) -> None:
        if self._board is not None and leg.connected is not None:
            leg.owner.heard = max(leg.owner.heard, self._board.disconnect(leg.fd))
            leg.connected = None

    def last_heard(self, relayed: Relayed) -> float:
        """When bytes came last, from either side."""
        if self._board is None:
            return relayed.heard
        return max(relayed.heard, *(self._board.heard(leg.fd) for leg in relayed.legs))

    @staticmethod
    def _is_read_first(leg: Leg) -> bool:
        """Whether TLS has decrypted what is still wanted: it would be lost with the end of the output."""
        return leg.tls is not None and leg.tls.pending() > 0 and leg.owner.session.wants(leg.side)

    def _end_output(self, leg: Leg) -> None:
        """TLS first, and then TCP. By the plain socket: an SSLSocket's own shutdown() would end the reading as well."""
        with contextlib.suppress(OSError):
            if leg.tls is not None and not leg.ends_silently:
                leg.last_record = leg.last_record or close_notify(leg.tls)
                if not _takes(leg.sock, leg.last_record):
                    leg.owes = True  # and comes here again
                    return
            socket.socket.shutdown(leg.sock, socket.SHUT_WR)
        leg.output_ends = False

    def _close(self, relayed: Relayed, *, at_once: bool) -> None:
        relayed.closing = True
        for leg in relayed.legs:
            if at_once or not leg.unsent:
                self._drop(leg)
        if all(leg.fd < 0 for leg in relayed.legs) and self._sessions.pop(relayed.id, None) is not None:
            self._on_over(relayed)

    def _on_over(self, relayed: Relayed) -> None:
        if self._nobody_left is not None and not self._sessions:
            self._nobody_left.set()
        with isolated(Task.SESSION, session=relayed.id):
            relayed.over()

    def _give_back(self, relayed: Relayed, command: Upgrade | Reroute) -> None:
        client = relayed.legs[Side.CLIENT]
        relayed.returned = Returned(client.sock, relayed.session.domain, bytes(client.unsent), command)
        self._forget(client)
        relayed.closing = True
        self.on_returned(relayed)

    def _drop(self, leg: Leg) -> None:
        if leg.fd >= 0:
            if leg.unsent:
                emit(_log, "bytes-dropped", session=leg.owner.id, side=leg.side.name.lower(), bytes=len(leg.unsent))
            elif leg.output_ends:
                self._end_output(leg)
            self._forget(leg)
            leg.sock.close()

    def _forget(self, leg: Leg) -> None:
        if leg.interest:
            self._epoll.unregister(leg.fd)
        for each in (leg, leg.other):
            self._disconnect(each)  # both: another socket will get this one's number, and none of these bytes
        leg.interest = 0
        leg.unsent.clear()
        leg.stuck_since = None
        self._again.discard(leg)
        self._behind.discard(leg)
        del self._legs[leg.fd]
        leg.fd = -1


def _takes(sock: socket.socket, record: bytes) -> bool:
    """Whether the socket beneath TLS has room for a record; then it has it."""
    try:
        socket.socket.send(sock, record)
    except BlockingIOError:
        return False
    return True


def _nothing(relayed: Relayed) -> None:
    """Nobody wants to know."""
