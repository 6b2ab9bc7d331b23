"""A session's parts, and what all of them stand on: the state, the timer, and the commands that are due.

=============== ======================================================================================================
part            owns
=============== ======================================================================================================
``client``      the client's lane and headers, the state of its two directions, what it has shown of itself
``node``        the same of the node; a value that can be exchanged for another node's while the client lives
``accounting``  XEP-0198's counts, where the proxy adds stanzas and takes some
``opening``     what was shown to whom and whose turn it is; only until the stream is bound
``transfer``    the order, the rung, what was tried; only while a transfer runs
``exchange``    the node's leg that is to come, and how far it is; only while one leg is exchanged for another
``stand_in``    XEP-0198 that the proxy speaks with the node; only while the client does not
``replay``      stanzas that the node has not acknowledged; only where the proxy could resume the session by itself
``closing``     the last question, the farewell, the wait for others; only while the session ends
``negotiation`` what client and node say of the stream itself; see :mod:`cxfr_proxy.xmpp.opening.negotiation`
=============== ======================================================================================================

A part's fields are written in its own file and nowhere else. Functions that take all parts contain what happens between
them: :mod:`.client_stream` and :mod:`.node_stream` (what the two streams bring), :mod:`.climbing` (the ladder),
:mod:`.exchanging` (the exchange of the node's leg), :mod:`.standing_in` (XEP-0198 in the client's place),
:mod:`.injecting` (stanzas put in and taken out), :mod:`.node_end` (what follows when the node's stream ends) and
:mod:`.ending` (how everything ends). They write no field: they call the parts' own methods, and those here for what
concerns several parts.
"""

from __future__ import annotations

from typing import Final, Protocol

from cxfr_proxy.session.accounting import Accounting
from cxfr_proxy.session.client_software import Software
from cxfr_proxy.session.closing import Closing, Farewell
from cxfr_proxy.session.commands import Event, Forgo, Reason, Report, Send, SessionCommand, Side
from cxfr_proxy.session.exchange import Exchange
from cxfr_proxy.session.ladder import Order
from cxfr_proxy.session.legs import ClientLeg, NodeLeg
from cxfr_proxy.session.opening import Opening
from cxfr_proxy.session.policy import Policy
from cxfr_proxy.session.replay import Replay
from cxfr_proxy.session.stand_in import StandIn
from cxfr_proxy.session.tables import TRANSITIONS, Exchanging, Incoming, State, Transition, Where
from cxfr_proxy.session.transfer import TransferAttempt
from cxfr_proxy.xmpp.framing.lane import Lane
from cxfr_proxy.xmpp.opening.negotiation import Negotiation

_WHERE: Final = {
    State.NEGOTIATING: Where.NEGOTIATING,
    State.BOUND: Where.BOUND,
    State.TRANSFERRING: Where.TRANSFERRING,
    State.CLOSING: Where.CLOSING,
    State.CLOSED: Where.CLOSING,  # nobody is left for whom it could mean anything
}


_NEGOTIATING: Final = State.NEGOTIATING
_BOUND: Final = State.BOUND
_TRANSFERRING: Final = State.TRANSFERRING
_CLOSED: Final = State.CLOSED
_BINDS: Final = Transition.BINDS
_STOPPED: Final = Reason.STOPPED
_CLIENT: Final = Side.CLIENT
_NODE: Final = Side.NODE


class CountsWithNode(Protocol):
    """XEP-0198 as the node sees it: the client's, or the proxy's in its place."""

    @property
    def namespace(self) -> str: ...

    @property
    def node_id(self) -> str | None:
        """The node's id for the session."""

    @property
    def resumable(self) -> bool:
        """The session can be resumed by that id."""

    def forwarded(self, position: int) -> int:
        """Return how many stanzas the node counts up to that position of its stream."""

    def rejoin(self, count: int, position: int) -> None:
        """Go on with the node's new stream, where the stanzas behind ``position`` follow its ``count``."""


class Parts:
    """The parts of one session; see the module.

    ``domain`` is the one that the client asked for. ``fast`` has by :class:`Side` the lane that may be scanned without
    asking. ``deadline`` is when the session wants to be told the time, on the relay's clock; ``None``: never. There is
    one timer: a new wait replaces the one before. ``reason`` and ``condition`` say why the session ends, if it does.
    """

    __slots__ = (
        "_out",
        "accounting",
        "client",
        "closing",
        "condition",
        "deadline",
        "domain",
        "exchange",
        "fast",
        "negotiating",
        "negotiation",
        "node",
        "now",
        "opening",
        "policy",
        "reason",
        "replay",
        "stand_in",
        "state",
        "transfer",
    )

    def __init__(
        self, client: ClientLeg, node: NodeLeg, policy: Policy, opening: Opening, negotiation: Negotiation, domain: str
    ) -> None:
        self.state = _NEGOTIATING
        self.client = client
        self.node = node
        self.policy = policy
        self.domain = domain
        self.negotiation = negotiation
        self.accounting = Accounting(negotiation.management)
        self.opening: Opening | None = opening
        self.negotiating: Opening | None = opening
        """The opening, while client and node negotiate; ``None`` also while a session ends that has never been
        bound."""
        self.transfer: TransferAttempt | None = None
        self.exchange: Exchange | None = None
        self.stand_in: StandIn | None = None
        self.replay: Replay | None = None
        self.closing: Closing | None = None
        self.deadline: float | None = None
        self.fast: list[Lane | None] = [None, None]
        self.reason = _STOPPED
        self.condition: str | None = None
        self.now = 0.0
        self._out: list[SessionCommand] | None = None  # an idle session keeps no list

    def follow(self, policy: Policy) -> None:
        """Go by these settings from now on."""
        self.policy = policy

    # --- time, commands, reasons

    def begin(self, now: float) -> None:
        """Note the time at which something happens."""
        self.now = now

    def take(self) -> list[SessionCommand]:
        """Return the commands that are due, in order."""
        out, self._out = self._out, None
        return out if out is not None else []

    def issue(self, command: SessionCommand) -> None:
        """Queue a command for the relay."""
        if self._out is None:
            self._out = [command]
        else:
            self._out.append(command)

    def send(self, side: Side, data: bytes) -> None:
        if not data:
            return
        # As issue() does it: nine of ten commands are sent from here.
        if self._out is None:
            self._out = [Send(side, data)]
        else:
            self._out.append(Send(side, data))

    def report(self, event: Event) -> None:
        self.issue(Report(event))

    def wait(self, seconds: float | None) -> None:
        """Ask for the time in so many seconds; ``None``: no more."""
        self.deadline = self.now + seconds if seconds is not None else None

    def wait_until(self, when: float) -> None:
        self.deadline = when

    def because(self, reason: Reason, condition: str | None = None) -> None:
        """Note the reason for which the session ends, if it does; ``condition`` ``None`` leaves the one before."""
        self.reason = reason
        self.condition = condition if condition is not None else self.condition

    def note_condition(self, condition: str) -> None:
        """Note the condition of something that went wrong; it is reported if the session ends."""
        self.condition = condition

    # --- states

    def go(self, transition: Transition) -> None:
        """Go to the state to which that transition leads. Raises where the table has no such way."""
        before = self.state
        after = TRANSITIONS.get((before, transition))
        if after is None:
            raise AssertionError(f"no way from {before} by {transition}")
        if after is not before:
            self.state, self.negotiating = after, None  # no way leads back
            # A replay goes on to its end, or a client that is leaving would get those stanzas twice.
            is_replaying = self.exchange is not None and self.exchange.state is Exchanging.REPLAYING
            if after is _CLOSED or not is_replaying:
                self.drop_exchange()
            self.choose_reading()

    @property
    def where(self) -> Where:
        """The place of the session in :data:`~.tables.NODE_REACTIONS`."""
        if self.exchange is not None and self.exchange.state is Exchanging.RESUMING:
            return Where.RESUMING
        return Where.ENDING_NODE if self.farewell is not None else _WHERE[self.state]

    @property
    def movable(self) -> bool:
        """Whether an order to move can be carried out now."""
        return self.state is _BOUND and self.exchange is None

    @property
    def on_old_leg(self) -> bool:
        """Whether the node's leg is to be exchanged, and is in its place as yet."""
        return self.exchange is not None and self.exchange.on_old_leg

    @property
    def broken(self) -> bool:
        """Whether the connection to the node is gone, and another one is waited for."""
        return self.exchange is not None and self.exchange.broken

    def restart(self) -> None:
        """Begin both streams anew (RFC 6120 section 4.3.3)."""
        self.client.restart()
        self.node.restart()
        if self.opening is not None:
            self.opening.restart()

    def come_into_use(self) -> None:
        """Drop what was needed only until the stream is bound."""
        limits = self.policy.limits
        self.deadline = None
        self.client.come_into_use(max_element_bytes=limits.max_element_up)
        self.node.come_into_use(max_held_bytes=limits.max_element_down)
        self.opening = None
        self.negotiation.end_attempt()
        self.go(_BINDS)

    def begin_transfer(self, order: Order) -> TransferAttempt:
        """Begin to move the client; :attr:`transfer` from here on."""
        self.transfer = TransferAttempt(order, self.node.name, self.now)
        self.go(Transition.IS_ORDERED)
        return self.transfer

    def end_transfer(self) -> None:
        """Forget the transfer, whatever came of it."""
        self.transfer = None

    @property
    def counts(self) -> CountsWithNode:
        """The counts that are kept with the node."""
        stand_in = self.stand_in
        return stand_in if stand_in is not None and stand_in.on else self.accounting.management

    @property
    def counted(self) -> bool:
        """Whether the node counts: it has said so."""
        return self.accounting.management.on or (self.stand_in is not None and self.stand_in.on)

    def stand_in_from(self, stand_in: StandIn) -> None:
        """Begin to stand in for the client; :attr:`stand_in` from here on."""
        self.stand_in = stand_in
        self.choose_reading()

    def end_standing_in(self) -> None:
        """Leave XEP-0198 to the client from here on."""
        self.stand_in = None
        self.choose_reading()

    def begin_replay(self, acknowledged: int = 0, confirmed: int = 0) -> None:
        """Keep what goes to the node until it is acknowledged; :attr:`replay` from here on, with these counts."""
        self.replay = Replay(self.policy.limits.max_unacknowledged, acknowledged, confirmed)
        self.choose_reading()

    def forget_node_counts(self) -> None:
        """Keep nothing for a node that is gone, and stand in for nobody."""
        self.stand_in = self.replay = None

    def end_replay(self) -> None:
        """Keep nothing any more: the node does not count."""
        if self.replay is None:
            return
        self.replay = None
        self.hold_client_if_need_be()
        self.choose_reading()

    def begin_exchange(self, node: str) -> Exchange:
        """Begin to exchange the node's leg; :attr:`exchange` from here on."""
        self.exchange = Exchange(node, self.now, self.now + self.policy.timeouts.migrate_timeout)
        return self.exchange

    def exchange_node(self, leg: NodeLeg) -> None:
        """Put that leg in the place of the node's. Nothing that the old one brings is read any more."""
        self.node.receive(Incoming.GONE)
        # The leg comes fresh from its login, with the limits for one.
        leg.come_into_use(max_held_bytes=self.policy.limits.max_element_down)
        self.node = leg

    def end_exchange(self) -> None:
        """End the exchange: nothing more of what the node sends is to be dropped."""
        self.exchange = None

    def drop_exchange(self, *, reachable: bool = True) -> None:
        """Go on with the node's leg that is in place, if another one was to come. ``reachable`` ``False``: the relay
        has found that there is no connection to give up."""
        exchange = self.exchange
        if exchange is not None:
            if exchange.state is Exchanging.REPLAYING:
                # The node has begun to send again what the client has got already: the client's count goes on behind
                # that.
                self.counts.rejoin(exchange.forwarded, self.node.lane.stanzas)
            if reachable and exchange.dials:
                self.issue(Forgo())
            self.end_exchange()
            self.wait(None)
            self.hold_client_if_need_be()
            self.choose_reading()

    def close(self) -> Closing:
        """Return the closing; the first call begins it."""
        if self.closing is None:
            self.closing = Closing(self.now)
        return self.closing

    @property
    def farewell(self) -> Farewell | None:
        """The client's last bytes, which follow the end of its node's stream; ``None`` while that end is not waited
        for."""
        return self.closing.farewell if self.closing is not None else None

    # --- reading

    def hold_client_if_need_be(self) -> None:
        """Have a bound client's bytes wait while they could go nowhere: no leg takes them, or the node has not
        acknowledged as much as may be kept."""
        if self.state is _NEGOTIATING:
            return  # the opening holds it
        full = self.replay is not None and self.replay.full
        self.client.hold(full or (self.exchange is not None and self.exchange.holds_client))

    def choose_reading(self) -> None:
        """Bring ``fast``, and what the lanes report, in line with what has to be looked at now."""
        if self.state is _NEGOTIATING:
            return  # each element is looked at, whatever else holds
        client, node, transfer, exchange = self.client, self.node, self.transfer, self.exchange
        stand_in, kept = self.stand_in, self.replay is not None
        on_old_leg = self.on_old_leg
        on_new_leg = exchange is not None and not on_old_leg
        bound = self.state is _BOUND
        # Bytes may pass without a look only while nothing can come of an element: in use, and with both ends there.
        up = (bound or (transfer is not None and transfer.is_migration)) and node.writable and not client.held
        asked = self.state is _TRANSFERRING and client.writable and not (transfer is not None and transfer.due)
        # While the client is asked, the node's stanzas still pass unseen, but not while the request waits for a
        # boundary to be put in at, and not while a new leg is only asked for the session or sends stanzas again.
        down = (bound or asked) and node.wanted and self.unquestioned and not on_new_leg
        self.fast[_CLIENT] = client.lane if up else None
        self.fast[_NODE] = node.lane if down else None
        # The first elements of a bound client are looked at for its capabilities; where stanzas are kept until the node
        # has acknowledged them, each is.
        client.lane.report_every(not up or client.looks_left > 0 or kept or stand_in is not None)
        node.lane.report_every(self.withholds or on_new_leg or (stand_in is not None and stand_in.wants_each))
        # Acknowledgements pass unseen as long as both sides count the same, and the proxy does not count itself; during
        # an exchange they say how far each is.
        acks = self.accounting.management.shifted or on_old_leg or kept
        client.lane.report_acks(acks)
        node.lane.report_acks(acks)

    @property
    def unquestioned(self) -> bool:
        """The last question was not asked."""
        return self.closing is None or self.closing.question is None

    @property
    def node_listens(self) -> bool:
        """Whether what the client sends may go to the node."""
        return self.node.writable and self.unquestioned

    @property
    def withholds(self) -> bool:
        """Whether the node's stanzas are kept back, because the client is asked which of them it has, or has
        answered."""
        question = self.closing.question if self.closing is not None else None
        return question is not None and question.withholds

    @property
    def has_room(self) -> bool:
        """Whether less of the node's is kept back than may be held."""
        question = self.closing.question if self.closing is not None else None
        return question is None or question.withheld_bytes < self.policy.limits.max_element_down

    @property
    def cuts_client(self) -> bool:
        """Whether the client has got the beginning of an element, and not its end: nothing else can be sent to it."""
        return self.node.lane.cutting and not self.withholds

    # --- passing on

    def pass_up(self, data: bytes) -> None:
        if self.node.writable:
            self.send(_NODE, data)

    def pass_stanza_up(self, data: bytes) -> None:
        """Send the node a stanza, and keep it where it may have to be sent again."""
        self.send(_NODE, data)
        replay = self.replay
        if replay is not None:
            replay.keep(data, self.now)
            self.request_if_due()
            if replay.full:
                self.hold_client_if_need_be()
                self.choose_reading()

    def request_if_due(self) -> None:
        """Ask the node how far it is, if it counts and has not been asked for long enough."""
        if self.replay is not None and self.replay.due and self.counted and self.node.writable:
            self.pass_request_up(self.accounting.request())

    def pass_request_up(self, request: bytes) -> None:
        """Send the node an ``<r/>``: it is asked how far it is."""
        if self.replay is not None:
            self.replay.note_asked()
        self.send(_NODE, request)

    def pass_down(self, data: bytes) -> None:
        if self.client.writable:
            self.send(_CLIENT, data)
        else:
            self.accounting.lose(len(data))

    def pass_stanza_down(self, data: bytes) -> None:
        """Pass a stanza of the node's on, or a part of one, unless the node's stanzas are kept back."""
        question = self.closing.question if self.closing is not None else None
        if question is not None and question.withholds:
            question.withhold(data)
        else:
            self.pass_down(data)

    # --- what is known of the client

    @property
    def software(self) -> Software:
        """The client's words about itself so far."""
        client, negotiation = self.client, self.negotiation
        resource = (negotiation.full_jid or "").partition("/")[2]
        return Software(client.caps, resource or None, negotiation.agent, client.refusal)

    @property
    def stays_down(self) -> bool:
        """The client is known not to come back once its stream has ended: it is moved only if something forces it."""
        return self.policy.surroundings.client_software.stays_down(self.software, self.domain, self.client.knows_cxfr)
