"""A session in the pump: its two sockets, and what the pump keeps for each. See :mod:`.pump`."""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from cxfr_proxy.session.commands import Event, Reroute, Side, Upgrade
from cxfr_proxy.session.ladder import Order
from cxfr_proxy.session.session import Session
from cxfr_proxy.xmpp.framing.framer import Framer

if TYPE_CHECKING:
    from cxfr_proxy.relay.pump import Pump

NODE_BYTES: Final = 65_536
"""As much is read from a node at once. Larger reads save nothing: a loopback or LAN read seldom returns more."""
CLIENT_BYTES: Final = 16_384
"""As much is read from a client at once. Each element of it may want a look, and the shortest has four bytes."""


class Leg:
    """One socket of a session, and the bytes it has not taken yet."""

    __slots__ = (
        "connected",
        "costly",
        "ends_silently",
        "eof",
        "fd",
        "interest",
        "last_record",
        "most",
        "other",
        "output_ends",
        "owes",
        "owner",
        "side",
        "sock",
        "stuck_since",
        "tls",
        "unsent",
    )

    other: Leg
    """The session's other leg."""

    def __init__(self, owner: Relayed, side: Side, sock: socket.socket) -> None:
        self.owner = owner
        self.side = side
        self.sock = sock
        self.fd = sock.fileno()
        self.most = CLIENT_BYTES if side is Side.CLIENT else NODE_BYTES
        self.tls = sock if isinstance(sock, ssl.SSLSocket) else None
        """The socket as well, to be read() and written: its recv() and send() are that, a microsecond later."""
        self.interest = 0  # what epoll was told; 0: not registered
        self.connected: Framer | None = None  # what the switchboard scans with
        self.unsent = bytearray()
        self.stuck_since: float | None = None  # since when unsent has not become less
        self.owes = False  # its TLS has to write something of its own, an alert say, before it can read on
        self.output_ends = False  # half-close it when unsent is out
        self.ends_silently = False  # and without close_notify
        self.last_record = b""  # that, once it was made
        self.eof = False
        self.costly = False  # seeing to what it has brought last took long


@dataclass(frozen=True, slots=True)
class Returned:
    """A client's socket that its session has given back, ``unsent`` still to be written to it, and what for.

    ``domain``: the one that it has asked for."""

    sock: socket.socket
    domain: str
    unsent: bytes
    command: Upgrade | Reroute


class Relayed:
    """A session in the pump. Made by :meth:`Pump.relay`.

    ``observer`` is told each event of the session, and ``on_over`` when its sockets are closed or given back.
    """

    __slots__ = (
        "_observer",
        "_on_over",
        "_pump",
        "alarm",
        "client_address",
        "client_port",
        "closing",
        "heard",
        "id",
        "legs",
        "opened",
        "placed_early",
        "returned",
        "session",
    )

    def __init__(
        self,
        pump: Pump,
        session: Session,
        session_id: int,
        client_address: str,
        client_port: int | None,
        observer: Callable[[Relayed, Event], None],
        on_over: Callable[[Relayed], None],
    ) -> None:
        self.id = session_id
        self.session = session
        self.client_address = client_address
        self.client_port = client_port
        """``None``: of a unix socket."""
        self.opened = self.heard = trio.current_time()
        self.legs: tuple[Leg, Leg]
        self.closing = False
        """The session is over; what is left to do is to get the last bytes out."""
        self.returned: Returned | None = None
        """The client's connection, which goes on without this session."""
        self.placed_early = False
        """Its node was chosen by nothing, only because the nodes' features were not known yet."""
        self.alarm = math.inf
        """When the pump's timers ring for it next."""
        self._pump = pump
        self._observer = observer
        self._on_over = on_over

    @property
    def last_active(self) -> float:
        """When bytes came last, from either side."""
        return self._pump.last_heard(self)

    @property
    def tls_version(self) -> str | None:
        """Of the client's connection, as ``TLSv1.3``; ``None`` where it is plain."""
        sock = self.legs[Side.CLIENT].sock
        return sock.version() if isinstance(sock, ssl.SSLSocket) else None

    def report(self, event: Event) -> None:
        self._observer(self, event)

    def transfer(self, order: Order) -> None:
        """Move this client; ignored where it can't be moved now."""
        self._pump.drive(self, partial(self.session.transfer, order))

    def recall(self) -> None:
        """Take the order back, as far as that can be done."""
        self._pump.drive(self, self.session.recall)

    def stop(self) -> None:
        """End it at once."""
        self._pump.drive(self, self.session.stop)

    def start(self) -> None:
        """Begin. From here on the pump does all, until the session is over."""
        self._pump.drive(self, self.session.start)

    def wind(self) -> None:
        """Set the timer by what is due first: the session's deadline, or a leg that is stuck."""
        due = self.session.due(backlogged=bool(self.legs[Side.CLIENT].unsent))
        for leg in self.legs:
            if leg.stuck_since is not None:
                stuck = leg.stuck_since + self._pump.write_stall_timeout
                due = stuck if due is None else min(due, stuck)
        if due is not None and due < self.alarm:
            self.alarm = due
            self._pump.timers.set(due, self.id)

    def over(self) -> None:
        """The last the pump has to say: it and the session know each other no more."""
        for leg in self.legs:
            del leg.owner, leg.other  # circles, which only the collector could free
        self._on_over(self)
