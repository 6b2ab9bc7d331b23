"""A session in the pump: its two legs, and what the pump keeps for each. See :mod:`.pump`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

import trio
from msgspec import Struct

from cxfr_proxy.net.arrival import Arrival
from cxfr_proxy.net.transport import Transport, Verdict
from cxfr_proxy.relay.websocket_transport import WebSocketTransport
from cxfr_proxy.session.commands import Dial, Event, Reroute, SessionCommand, Side, Upgrade
from cxfr_proxy.session.ladder import Order
from cxfr_proxy.session.session import Session
from cxfr_proxy.session.tables import Intake
from cxfr_proxy.xmpp.framing.framer import Framer

NODE_BYTES: Final = 65_536
"""Most bytes that are read from a node at once. Larger reads save nothing: a loopback or LAN read seldom returns
more."""
CLIENT_BYTES: Final = 16_384
"""Most bytes that are read from a client at once. Each element of them may want a look, and the shortest (``<a/>``) has
four."""

_CLIENT: Final = Side.CLIENT
_NOTHING: Final = Intake.NOTHING

Decide = Callable[[float], Sequence[SessionCommand]]
"""A method of the session's that is told the time, on the pump's clock in seconds."""


class Leg:
    """One side of a live session: its transport, and the bytes that it has not taken yet."""

    __slots__ = (
        "connected",
        "costly",
        "ends_silently",
        "eof",
        "fd",
        "intake",
        "interest",
        "live",
        "other",
        "output_ends",
        "read_size",
        "side",
        "stuck_since",
        "transport",
        "unsent",
        "watched",
    )

    other: Leg
    """The other leg of the same session."""

    def __init__(self, live: LiveSession, side: Side, transport: Transport) -> None:
        self.live = live
        self.side = side
        self.transport = transport
        self.fd = transport.fileno()  # -1: the pump has closed it, or given it back
        self.read_size = CLIENT_BYTES if side is _CLIENT else NODE_BYTES
        self.intake = _NOTHING  # what may be read of it, as of the latest event of its session
        self.interest = 0  # the events that are waited for
        self.watched = 0  # what epoll was told; before the first interest it may be what an opening has waited for
        self.connected: Framer | None = None  # what the switchboard scans with
        self.unsent = bytearray()
        self.stuck_since: float | None = None  # since when unsent has not become less
        self.output_ends = False  # half-close it when unsent is out
        self.ends_silently = False  # and without close_notify
        self.eof = False
        self.costly = False  # seeing to what it has brought last took long

    def send(self, data: bytes, now: float) -> None:
        """Send bytes, behind those that wait; what the transport does not take at once waits as well."""
        if self.unsent:
            self.unsent += data
            return
        transport = self.transport
        try:
            sent = transport.write_now(data)
        except OSError as exc:
            if transport.judge(exc, Verdict.WAIT_WRITABLE) is Verdict.OVER:
                return  # it is gone. Reading will say so, behind what it has sent before, which is still wanted
            sent = 0
        # The socket's buffer is full. EPOLLOUT will tell when there is room: the caller settles.
        if sent < len(data):
            self.unsent += memoryview(data)[sent:]  # a slice of the bytes would copy them twice
            self.stuck_since = now

    def flush(self, now: float) -> None:
        """Send what waits, as far as the transport takes it."""
        if not self.unsent:
            self.stuck_since = None
            return
        try:
            sent = self.transport.write_now(self.unsent)
        except OSError as exc:
            if self.transport.judge(exc, Verdict.WAIT_WRITABLE) is not Verdict.OVER:
                return
            sent = len(self.unsent)  # it is gone, as in send()
        del self.unsent[:sent]
        # Any byte that was taken starts the time anew: slow is not stuck.
        self.stuck_since = now if self.unsent else None
        if not self.unsent:
            self.live.session.caught_up(self.side, now)

    @property
    def is_read_first(self) -> bool:
        """Whether bytes are pending that are still wanted: ending the output would lose them."""
        return self.transport.pending() > 0 and self.live.session.wants(self.side)

    def end_output(self) -> None:
        """Half-close it."""
        self.transport.end_output(silently=self.ends_silently)
        self.output_ends = False


class ReturnedConnection(Struct, frozen=True):
    """A client's transport that its session has given back, and why. The receiver closes it.

    ``unsent`` is still to be written to it. ``domain`` is the one that the client has asked for.
    """

    transport: Transport
    domain: str
    unsent: bytes
    command: Upgrade | Reroute


class SessionListener(Protocol):
    """Is told what becomes of live sessions.

    It may call the session from within these methods: the call is carried out when the session is between two events
    again.
    """

    def session_event(self, live: LiveSession, event: Event) -> None:
        """Take in what the session has reported."""
        ...

    def session_returned(self, live: LiveSession, returned: ReturnedConnection) -> None:
        """Take over the client's transport, which the session has given back. :meth:`session_over` follows."""
        ...

    def session_dials(self, live: LiveSession, dial: Dial) -> None:
        """Dial another node for the session. The answer is :meth:`LiveSession.offer_node`, or
        :meth:`LiveSession.not_dialled`."""
        ...

    def session_forgoes(self, live: LiveSession) -> None:
        """Give up the dial: the session does not want that node any more."""
        ...

    def session_over(self, live: LiveSession) -> None:
        """Do what is due at a session's end. Its transports are closed, or were given back."""
        ...


class Driver(Protocol):
    """The pump, as far as a live session needs it."""

    def drive(self, live: LiveSession, decide: Decide) -> None:
        """Let the session decide, and carry out its commands."""
        ...

    def last_heard(self, live: LiveSession) -> float:
        """Return when bytes came last, from either side."""
        ...

    def offer_node(self, live: LiveSession, transport: Transport, decide: Decide) -> None:
        """See :meth:`LiveSession.offer_node`."""
        ...

    def ping(self, live: LiveSession) -> None:
        """See :meth:`LiveSession.ping`."""
        ...


class LiveSession:
    """A session in the pump. Made by :meth:`.pump.Pump.relay`."""

    __slots__ = (
        "_driver",
        "arrival",
        "closing",
        "deferred",
        "driven",
        "heard",
        "id",
        "legs",
        "listener",
        "opened",
        "placed_early",
        "returned",
        "session",
        "spare_node",
        "timer_at",
        "unheard",
    )

    def __init__(
        self,
        driver: Driver,
        session: Session,
        session_id: int,
        arrival: Arrival,
        listener: SessionListener,
    ) -> None:
        self.id = session_id
        self.session = session
        self.arrival = arrival
        self.opened = self.heard = trio.current_time()
        self.legs: tuple[Leg, Leg]
        self.closing = False
        """The session is over; what is left to do is to get the last bytes out."""
        self.spare_node: Transport | None = None
        """A connection to another node, which may take the place of the node's."""
        self.returned: ReturnedConnection | None = None
        """The client's connection, which goes on without this session."""
        self.placed_early = False
        """Its node was chosen without a login, only because the nodes' features were not known yet."""
        self.timer_at = math.inf
        """When the pump's timers call for it next."""
        self.unheard = False
        """Bytes of one of its legs were read, and the session has not heard of them yet."""
        self.driven = False
        """Its commands are being carried out."""
        self.deferred: tuple[Decide, ...] = ()
        """Decisions that it was asked for while it was driven; they follow, in this order."""
        self.listener = listener
        self._driver = driver

    @property
    def last_active(self) -> float:
        """When bytes came last, from either side."""
        return self._driver.last_heard(self)

    @property
    def client_address(self) -> str:
        """See :attr:`cxfr_proxy.net.arrival.Arrival.address`."""
        return self.arrival.address

    @property
    def client_port(self) -> int | None:
        """See :attr:`cxfr_proxy.net.arrival.Arrival.port`."""
        return self.arrival.port

    @property
    def tls_version(self) -> str | None:
        """See :meth:`cxfr_proxy.net.arrival.Arrival.tls_version`."""
        return self.arrival.tls_version(self.legs[_CLIENT].transport)

    @property
    def websocket(self) -> WebSocketTransport | None:
        """The client's connection, if it is a WebSocket and still this session's."""
        transport = self.legs[_CLIENT].transport
        return transport if isinstance(transport, WebSocketTransport) and self.legs[_CLIENT].fd >= 0 else None

    @property
    def is_websocket(self) -> bool:
        """Whether the client came by WebSocket."""
        return isinstance(self.legs[_CLIENT].transport, WebSocketTransport)

    @property
    def transport_name(self) -> str:
        """The facts that operators are shown: ``tcp`` or ``websocket``, either with or without TLS."""
        return "websocket" if self.is_websocket else "tcp"

    def unsent(self, side: Side) -> int:
        """Return how many bytes wait for that side to read."""
        return len(self.legs[side].unsent)

    def transfer(self, order: Order) -> None:
        """Move this client; ignored where it can't be moved now."""
        self._driver.drive(self, partial(self.session.transfer, order))

    def recall(self) -> None:
        """Take the order back, as far as that can be done."""
        self._driver.drive(self, self.session.recall)

    def not_dialled(self, why: str, *, broke: bool) -> None:
        """Tell the session that there is no connection to the node that it has asked for; ``broke``: any more."""
        self._driver.drive(self, partial(self.session.not_dialled, why, broke=broke))

    def kick(self) -> None:
        """End it in good order: an operator wants it."""
        self._driver.drive(self, self.session.kick)

    def stop(self) -> None:
        """End it at once."""
        self._driver.drive(self, self.session.stop)

    def redirect(self, url: str) -> None:
        """Let the end of the client's stream name that URL, if it is on WebSocket."""
        websocket = self.websocket
        if websocket is not None:
            websocket.see_other_uri = url

    def ping(self) -> None:
        """Ping the client, which is on WebSocket."""
        self._driver.ping(self)

    def lose_client(self) -> None:
        """Go on as if the client's connection had broken."""
        self._driver.drive(self, partial(self.session.eof, _CLIENT))

    def start(self) -> None:
        """Begin. From here on the pump does all, until the session is over."""
        self._driver.drive(self, self.session.start)

    def offer_node(self, transport: Transport, decide: Decide) -> None:
        """Hand a connection to another node over, and let the session decide what becomes of it.

        From now on the pump closes it: it takes the place of the node's (:meth:`.pump.Pump.exchange_node`), or is
        dropped, with the session at the latest. A session that is over is not asked.
        """
        self._driver.offer_node(self, transport, decide)

    def over(self) -> None:
        """Let go of the session: it is the pump's last call to it."""
        for leg in self.legs:
            del leg.live, leg.other  # reference cycles, which only the collector could free
        self.listener.session_over(self)
