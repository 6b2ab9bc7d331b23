"""The state table of a session: bytes, ends, orders and time in; commands out.

::

    NEGOTIATING -> BOUND <-> TRANSFERRING -> CLOSING -> CLOSED        (and from each to CLOSING and CLOSED)

How to read it: the public methods at the top are what the relay calls; each returns the commands that follow from the
call. Below them, first what the client's stream brings, then what the node's brings, then the ladder, then the closing.

Which direction may be read how:

* ``fast[side]`` is the lane of the bytes that *come from* that side while nothing about them has to be known: the relay
  scans it itself, sends what comes out, and calls :meth:`Session.noted` only when something was noted;
* else it is ``None``, and every byte goes through :meth:`Session.receive`, element by element. So it is while the
  stream is negotiated, and for the client's side while a transfer runs or the node is gone, when each stanza may need
  an answer.

Order of closing, so that nothing is lost down: the node's stream first, everything that it still sends goes to the
client, and only then the client's farewell. What the client sends in between is answered with a stanza error of type
``wait``. A client that sees its stream end hence knows: what was neither acted upon nor answered did not arrive.

A session does not assume that it has one node for life: ``node`` is a name, the node's leg may be gone while the client
lives, and everything about it is in ``_node_*``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from cxfr_proxy.config import Limits, Timeouts
from cxfr_proxy.errors import ClientError, NodeError, RemoteError
from cxfr_proxy.session.commands import (
    Answered,
    Asked,
    BoundTo,
    Close,
    Command,
    Ended,
    EndOutput,
    Event,
    Forged,
    NodeLost,
    Outcome,
    Reason,
    Report,
    Resumable,
    Send,
    Side,
    Transferred,
    Upgrade,
    Warned,
)
from cxfr_proxy.session.ladder import Order, Rung, Traits, next_rung
from cxfr_proxy.xmpp import connection_transfer, stanza
from cxfr_proxy.xmpp.connection_transfer import ConnectionTransfer, Server
from cxfr_proxy.xmpp.framing import USUAL, WATCHED, Element, Failure, Header, StreamEnd
from cxfr_proxy.xmpp.lane import Lane, Piece
from cxfr_proxy.xmpp.names import StanzaCondition, StreamCondition
from cxfr_proxy.xmpp.opening import Bound, Negotiation, Passage, StreamHeader, read_header

_GOING_AWAY: Final = frozenset((StreamCondition.SYSTEM_SHUTDOWN, StreamCondition.RESET, StreamCondition.SEE_OTHER_HOST))
"""Stream errors by which a node says that its client should be elsewhere. They are held back, and replaced."""

_NOT_DELIVERED: Final = "not delivered: the connection is being moved, try again"
_STANZAS: Final = (b"<message", b"<presence", b"<iq")


class State(Enum):
    NEGOTIATING = "negotiating"
    """Client and node agree on authentication and a resource."""
    BOUND = "bound"
    """The stream is in use."""
    TRANSFERRING = "transferring"
    """The client was told to move, or will be as soon as its node's stream is closed."""
    CLOSING = "closing"
    """One of the streams is ended; the rest is waiting for the other parties to end theirs."""
    CLOSED = "closed"


MOVES: Final[dict[State, frozenset[State]]] = {
    State.NEGOTIATING: frozenset((State.BOUND, State.CLOSING, State.CLOSED)),
    State.BOUND: frozenset((State.TRANSFERRING, State.CLOSING, State.CLOSED)),
    State.TRANSFERRING: frozenset((State.BOUND, State.CLOSING, State.CLOSED)),
    State.CLOSING: frozenset((State.CLOSED,)),
    State.CLOSED: frozenset(),
}
"""Every move a session can make. Anything else is a defect, and raises."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator decided, as far as a session needs it. ``token`` makes unguessable text."""

    timeouts: Timeouts
    limits: Limits
    try_unknown: bool
    token: Callable[[], str]
    jid_of_resumable: Callable[[str], str | None]


@dataclass(slots=True)
class _Transfer:
    """A transfer under way. Times are the relay's clock, in seconds."""

    order: Order
    started: float
    rung: Rung = Rung.RESET
    iq_id: str = ""
    accepted: bool = False
    tried: list[tuple[Rung, Outcome]] = field(default_factory=list)


class Session:
    """See the module. ``domain`` is the one the client's header names; ``unread`` of ``up`` is what it sent already."""

    __slots__ = (
        "_client_in",
        "_client_out",
        "_client_over",
        "_condition",
        "_domain",
        "_down",
        "_ended",
        "_farewell",
        "_header_due",
        "_header_to_client",
        "_header_to_node",
        "_hold_client",
        "_iq_due",
        "_knows_cxfr",
        "_late",
        "_negotiation",
        "_node_in",
        "_node_out",
        "_now",
        "_out",
        "_policy",
        "_reason",
        "_tls",
        "_transfer",
        "_undelivered",
        "_up",
        "deadline",
        "fast",
        "node",
        "state",
    )

    def __init__(
        self, header: StreamHeader, up: Lane, policy: Policy, *, node: str, tls: bool, offer_starttls: bool = False
    ) -> None:
        limits = policy.limits
        self.state = State.NEGOTIATING
        self.node = node
        self.deadline: float | None = None
        """When to call :meth:`tick`; ``None``: no need to."""
        self.fast: list[Lane | None] = [None, None]
        """By :class:`Side`: the lane that may be scanned without asking."""
        self._policy = policy
        self._tls = tls
        self._domain = header.to or ""
        self._up = up
        self._down = Lane(max_element_bytes=limits.max_element_down, max_depth=limits.max_depth)
        self._negotiation = Negotiation(offer_starttls=offer_starttls, jid_of_resumable=policy.jid_of_resumable)
        self._header_to_node = header  # the client's
        self._header_to_client: StreamHeader | None = None  # the node's
        self._header_due = True  # the client's current stream has not got its header yet
        self._hold_client = False
        # In: its connection may still bring something. Out: its stream may still be written to.
        self._client_in = self._client_out = self._node_in = self._node_out = True
        self._client_over = False  # its stream has ended or failed: what else it sends is dropped
        self._transfer: _Transfer | None = None
        self._iq_due: bytes | None = None  # waits for a boundary, behind an element that is being cut through
        self._farewell: bytes | None = None  # the client's last bytes, once the node has nothing more for it
        self._knows_cxfr: bool | None = None
        self._reason = Reason.STOPPED
        self._condition: str | None = None
        self._ended = False
        self._late = 0
        self._undelivered = 0
        self._out: list[Command] = []
        self._now = 0.0

    # --- what others ask

    @property
    def full_jid(self) -> str | None:
        """Known from bind on; ``None`` for a resumed session that began elsewhere."""
        return self._negotiation.full_jid

    @property
    def domain(self) -> str:
        """The domain the client asked for."""
        return self._domain

    @property
    def tls(self) -> bool:
        return self._tls

    @property
    def stream_management(self) -> bool:
        return self._negotiation.stream_management

    @property
    def rung(self) -> Rung | None:
        """The rung being tried; ``None`` when no transfer runs."""
        return self._transfer.rung if self._transfer is not None else None

    @property
    def node_lost(self) -> bool:
        """The node's stream is over although the client's is not."""
        return not self._node_out

    def wants(self, side: Side) -> bool:
        """Whether bytes from that side should be read now."""
        if side is Side.CLIENT:
            return self._client_in and not self._hold_client
        return self._node_in

    # --- what the relay calls

    def start(self, now: float) -> list[Command]:
        """Open the node's stream with the client's header, and read what the client has sent behind it."""
        self._now = now
        self.deadline = now + self._policy.timeouts.negotiation_timeout
        self._send(Side.NODE, self._header_to_node.raw)
        self._read_client()
        return self._take()

    def receive(self, side: Side, data: bytes, now: float) -> list[Command]:
        """Bytes from a side whose ``fast`` lane is ``None``."""
        self._now = now
        if side is Side.NODE:
            self._read_node(data)
        elif not self._client_over:
            self._up.feed(data)
            self._read_client()
        return self._take()

    def noted(self, side: Side, ready: bytes, now: float) -> list[Command]:
        """The fast lane of that side has turned a chunk into ``ready`` and noted something in it."""
        self._now = now
        lane = self._up if side is Side.CLIENT else self._down
        for piece in lane.pieces(ready):
            self._on_piece(side, piece)
        self._settle_down()
        return self._take()

    def eof(self, side: Side, now: float) -> list[Command]:
        """That side's connection has ended, with or without its stream."""
        self._now = now
        if side is Side.CLIENT:
            self._on_client_eof()
        else:
            self._on_node_eof()
        return self._take()

    def stalled(self, side: Side, now: float) -> list[Command]:
        """That side has not read for too long: its connection is given up."""
        self._now = now
        self._give_up(Reason.STALLED)
        return self._take()

    def tick(self, now: float) -> list[Command]:
        """Time has passed. Does nothing before the deadline."""
        self._now = now
        if self.deadline is not None and now >= self.deadline:
            self.deadline = None
            self._on_deadline()
        return self._take()

    def transfer(self, order: Order, now: float) -> list[Command]:
        """Move this client.

        Only a bound session can be moved; others ignore the order. One that is being asked already is asked no more if
        the order is ``hurried``: the next rung follows at once.
        """
        self._now = now
        if self.state is State.BOUND:
            self._transfer = _Transfer(order, now)
            self._move(State.TRANSFERRING)
            self._climb()
        elif order.hurried and self._transfer is not None and self._transfer.rung is Rung.CXFR:
            self._transfer.order = order
            self._next_rung(Outcome.SILENT)
        return self._take()

    def stop(self, now: float) -> list[Command]:
        """End at once, without waiting for anybody."""
        self._now = now
        self._give_up(Reason.STOPPED)
        return self._take()

    # --- small tools

    def _take(self) -> list[Command]:
        out, self._out = self._out, []
        return out

    def _send(self, side: Side, data: bytes) -> None:
        if data:
            self._out.append(Send(side, data))

    def _report(self, event: Event) -> None:
        self._out.append(Report(event))

    def _move(self, state: State) -> None:
        if state is self.state:
            return
        if state not in MOVES[self.state]:
            raise AssertionError(f"no way from {self.state} to {state}")
        self.state = state
        self._choose_reading()

    def _choose_reading(self) -> None:
        """Which directions need no attention now."""
        bound = self.state is State.BOUND
        self.fast[Side.CLIENT] = self._up if bound and self._node_out and not self._hold_client else None
        moving = self.state is State.TRANSFERRING and self._client_out and self._iq_due is None
        self.fast[Side.NODE] = self._down if (bound or moving) and self._node_in else None

    def _on_piece(self, side: Side, piece: Piece) -> None:
        if side is Side.CLIENT:
            self._on_client_piece(piece)
        else:
            self._on_node_piece(piece)

    # --- from the client

    def _read_client(self) -> None:
        while not (self._client_over or self._hold_client or self.state is State.CLOSED):
            if self.fast[Side.CLIENT] is not None:
                self._scan(Side.CLIENT, self._up, self._up.take_unread())
                return
            piece = self._up.next()
            if piece is None:
                return
            self._on_client_piece(piece)

    def _scan(self, side: Side, lane: Lane, data: bytes) -> None:
        if not data:
            return
        ready = lane.scan(data)
        for piece in lane.pieces(ready):
            self._on_piece(side, piece)

    def _on_client_piece(self, piece: Piece) -> None:
        match piece.note:
            case None:
                self._pass_up(piece.data)
            case Header():
                self._on_client_header(piece.data)
            case StreamEnd():
                self._on_client_end()
            case Failure(condition=condition, text=text):
                self._on_client_fault(ClientError(condition, text))
            case Element(name=name):
                self._on_client_element(name, piece.data)

    def _pass_up(self, data: bytes) -> None:
        if self._node_out:
            self._send(Side.NODE, data)

    def _on_client_header(self, raw: bytes) -> None:
        try:
            header = read_header(raw, ClientError)
            if (header.to or "").lower() != self._domain.lower():
                raise ClientError(StreamCondition.HOST_UNKNOWN, "the domain changed at the stream's restart")
        except ClientError as error:
            self._on_client_fault(error)
            return
        self._header_to_node = header
        self._pass_up(header.raw)

    def _on_client_element(self, name: str, data: bytes) -> None:
        if not self._client_out:
            # With XEP-0198 it was not acknowledged, and the client knows.
            self._late += data.startswith(_STANZAS) and not self.stream_management
            return
        if self.state is State.BOUND or self.state is State.TRANSFERRING:
            if name in USUAL:
                self._on_client_stanza(data)
                return
            if not self._node_out:
                return
        elif self.state is not State.NEGOTIATING:
            self._answer_undelivered(data)
            return
        try:
            passage = self._negotiation.from_client(data, self._header_to_node)
        except ClientError as error:
            self._on_client_fault(error)
            return
        if self.state is not State.NEGOTIATING:
            # After bind nothing is negotiated that could begin a new stream.
            passage.hold_client, passage.start_tls = None, False
        self._carry_out(Side.CLIENT, passage)

    def _on_client_stanza(self, data: bytes) -> None:
        """A stanza that is looked at: it holds the watched bytes, or a transfer runs, or the node is gone."""
        if WATCHED in data and self._is_answer(data):
            return
        if self._node_out:
            self._send(Side.NODE, data)
        else:
            self._answer_undelivered(data)

    def _is_answer(self, data: bytes) -> bool:
        """Whether it answers one of our own IQs, which the node never saw, and so it must not see the answer."""
        try:
            element = stanza.parse(data, self._header_to_node.raw)
        except stanza.MalformedElement:
            return False
        if connection_transfer.mentions_support(element):
            self._knows_cxfr = True
            return False
        answer = connection_transfer.answer(element)
        if answer is None:
            return False
        transfer = self._transfer
        if transfer is not None and transfer.rung is Rung.CXFR and answer.id == transfer.iq_id:
            if answer.accepted:
                self._knows_cxfr = True
                transfer.accepted = True
                self.deadline = self._now + self._policy.timeouts.cxfr_timeout
            else:
                self._knows_cxfr = False
                self._next_rung(Outcome.REFUSED)
        return True

    def _answer_undelivered(self, data: bytes) -> None:
        try:
            element = stanza.parse(data, self._header_to_node.raw)
        except stanza.MalformedElement:
            return
        reply = stanza.error_reply(element, StanzaCondition.RECIPIENT_UNAVAILABLE, "wait", _NOT_DELIVERED)
        if reply is not None:
            self._send(Side.CLIENT, reply)

    def _on_client_end(self) -> None:
        """``</stream:stream>`` from the client: it has said its last word, and may still get the node's."""
        self._reason = Reason.CLIENT_CLOSED
        self._client_over = True
        self._settle_transfer(Outcome.MOVED)
        if self._client_out:
            self._close_node_first(self._last_words())
        self._finish_if_over()

    def _on_client_eof(self) -> None:
        if self.state is State.CLOSED:
            return
        self._client_in = False
        self._settle_transfer(Outcome.MOVED)
        if self._client_out:
            # It is gone, so nothing can be said to it any more.
            if not self._client_over:
                self._reason = Reason.CLIENT_LOST
            self._end_client_output()
        if self._node_out:
            # With XEP-0198 the node keeps a cut session for resumption; without, or after a transfer, nobody comes back
            # for it.
            self._end_node_stream(cleanly=not self.stream_management)
            self._end_node_output()
        self._move(State.CLOSING)
        self._await_others(self._policy.timeouts.node_close_timeout)

    def _on_client_fault(self, error: RemoteError) -> None:
        """The client's stream can't go on: the error, the end, and a clean end for the node."""
        self._reason, self._condition = Reason.CLIENT_FAULT, error.condition
        self._client_over = True
        self._settle_transfer(Outcome.MOVED)
        self._end_client(self._last_words(stanza.stream_error(error.condition, error.text)))

    # --- from the node

    def _read_node(self, data: bytes) -> None:
        if self.state is State.NEGOTIATING:
            self._down.feed(data)
            while self.wants(Side.NODE) and self.fast[Side.NODE] is None:
                piece = self._down.next()
                if piece is None:
                    return
                self._on_node_piece(piece)
            data = self._down.take_unread()
        if self.wants(Side.NODE):
            self._scan(Side.NODE, self._down, data)
            self._settle_down()

    def _settle_down(self) -> None:
        """After a chunk from the node: is there a boundary for an IQ that waits for one?"""
        if self._iq_due is not None and not self._down.cutting and self._client_out:
            iq, self._iq_due = self._iq_due, None
            self._send(Side.CLIENT, iq)
            self._choose_reading()

    def _on_node_piece(self, piece: Piece) -> None:
        if not self._node_in:
            return  # the end of a stream that has said it is over
        match piece.note:
            case None:
                self._pass_down(piece.data)
            case Header():
                self._on_node_header(piece.data)
            case StreamEnd():
                self._on_node_end(Reason.NODE_CLOSED)
            case Failure(condition=condition, text=text):
                self._on_node_fault(NodeError(condition, text))
            case Element(name=name):
                self._on_node_element(name, piece)

    def _pass_down(self, data: bytes) -> None:
        if self._client_out:
            self._send(Side.CLIENT, data)
        else:
            self._undelivered += len(data)

    def _on_node_header(self, raw: bytes) -> None:
        try:
            self._header_to_client = read_header(raw, NodeError)
        except NodeError as error:
            self._on_node_fault(error)
            return
        if self._client_out:
            self._header_due = False
        self._pass_down(self._header_to_client.raw)

    def _on_node_element(self, name: str, piece: Piece) -> None:
        header = self._header_to_client
        assert header is not None, "a framer reports the header first"
        if not piece.whole:
            self._on_cut_through(name, piece.data)
            return
        if self.state is not State.NEGOTIATING and name in USUAL:
            self._on_watched_stanza(piece.data, header)
            return
        try:
            passage = self._negotiation.from_node(piece.data, header, self._domain)
        except stanza.MalformedElement:
            self._on_node_fault(NodeError(StreamCondition.BAD_NAMESPACE_PREFIX, "an undeclared prefix"))
            return
        self._carry_out(Side.NODE, passage)

    def _on_cut_through(self, name: str, data: bytes) -> None:
        """The end of an element too long to be held back, with something about it that wanted a look: too late."""
        if name in USUAL and WATCHED in data:
            # It could be a forged transfer stretched beyond the limit. It is not finished yet, so the client can't have
            # acted on it, and it never will be.
            self._report(Forged())
            self._give_up(Reason.NODE_FAULT)
            return
        self._pass_down(data)

    def _on_watched_stanza(self, data: bytes, header: StreamHeader) -> None:
        """A stanza with the watched bytes: only this proxy may tell its clients to move."""
        try:
            element = stanza.parse(data, header.raw)
        except stanza.MalformedElement:
            self._on_node_fault(NodeError(StreamCondition.BAD_NAMESPACE_PREFIX, "an undeclared prefix"))
            return
        if not connection_transfer.is_transfer(element):
            self._pass_down(data)
            return
        self._report(Forged())
        reply = stanza.error_reply(
            element, StanzaCondition.NOT_ALLOWED, "cancel", "only the server may move a connection"
        )
        if reply is not None and self._node_out:
            self._send(Side.NODE, reply)

    def _on_node_end(self, reason: Reason) -> None:
        """The node's stream is over, by ``</stream:stream>``."""
        self._node_in = False
        if self._farewell is not None:
            self._say_farewell()
        elif self.state is State.TRANSFERRING:
            self._lose_node(reason)
        elif self.state is not State.CLOSING:
            self._reason = reason
            self._close_node_first(self._last_words())
        self._finish_if_over()

    def _on_node_eof(self) -> None:
        if self.state is State.CLOSED:
            return
        if not self._node_in:
            self._finish_if_over()
            return
        self._node_in = False
        if self._farewell is not None:
            self._say_farewell()
        elif self.state is State.NEGOTIATING:
            self._on_client_unserved()
        elif self.state is not State.CLOSING:
            self._lose_node(Reason.NODE_LOST)
        self._finish_if_over()

    def _on_client_unserved(self) -> None:
        """The node went away before there was a session worth moving."""
        self._reason, self._condition = Reason.NODE_LOST, StreamCondition.REMOTE_CONNECTION_FAILED
        error = stanza.stream_error(StreamCondition.REMOTE_CONNECTION_FAILED, "the server went away, try again")
        self._end_client(self._last_words(error))

    def _on_node_fault(self, error: NodeError) -> None:
        """The node's bytes can't be followed any further; what came before them is whole."""
        self._node_in = False
        self._condition = error.condition
        self._report(Warned(f"the node broke its stream: {error}"))
        if self._farewell is not None:
            self._say_farewell()
        elif self.state is State.NEGOTIATING:
            self._on_client_unserved()
        elif self._down.cutting:
            self._give_up(Reason.NODE_FAULT)  # the client's stream is broken as well
        elif self.state is not State.CLOSING:
            self._lose_node(Reason.NODE_FAULT)

    def _lose_node(self, reason: Reason) -> None:
        """The client is still here: tell it to move, or go on telling it."""
        self._reason = reason
        if self._down.cutting:
            self._give_up(reason)  # in the middle of an element nothing can be said any more
            return
        self._end_node_stream(cleanly=reason is not Reason.NODE_LOST)
        self._end_node_output()
        self._choose_reading()
        if self.state is State.BOUND:
            self._report(NodeLost(reason))

    def _carry_out(self, side: Side, passage: Passage) -> None:
        """Let an element pass, as the negotiation wants it."""
        if passage.start_tls:
            self._reason = Reason.STARTTLS
            self._end_node_stream(cleanly=True)
            self._end(Upgrade())
            return
        if passage.ends is not None:
            self._on_node_error(passage.ends, passage.forward)
            return
        if side is Side.NODE:
            self._pass_down(passage.forward)
        else:
            self._pass_up(passage.forward)
            self._send(Side.CLIENT, passage.answer)
        if passage.restart:
            self._up.restart()
            self._down.restart()
            self._header_due = True
        if passage.bound is not None:
            self._on_bound(passage.bound)
        if side is Side.NODE:
            self._note_stream_management()
            for warning in self._negotiation.warnings:
                self._report(Warned(warning))
            self._negotiation.warnings = ()
        if passage.hold_client is not None and passage.hold_client is not self._hold_client:
            self._hold_client = passage.hold_client
            self._choose_reading()
            if side is Side.NODE:
                self._read_client()

    def _note_stream_management(self) -> None:
        resumable = self._negotiation.stream_management_id
        if resumable is not None and not self._ended:
            self._negotiation.stream_management_id = None
            self._report(Resumable(resumable))

    def _on_bound(self, bound: Bound) -> None:
        limits = self._policy.limits
        self.deadline = None
        self._up.limit_elements(limits.max_element_up)
        self._down.limit_elements(None)
        self._down.max_held = limits.max_element_down
        self._move(State.BOUND)
        self._report(BoundTo(bound.full_jid))

    def _on_node_error(self, condition: str, data: bytes) -> None:
        if condition in _GOING_AWAY and self.state is not State.NEGOTIATING:
            # Held back; what follows is the end of the node's stream, said or unsaid.
            self._node_in = False
            if self._farewell is not None:
                self._say_farewell()
            elif self.state is not State.CLOSING:
                self._lose_node(Reason.NODE_SHUTDOWN)
            return
        if condition == StreamCondition.SEE_OTHER_HOST:
            # Before bind nothing can be moved, and the address would lead around the proxy.
            data = stanza.stream_error(StreamCondition.RESET, "reconnect")
        self._node_in = False
        self._reason, self._condition = Reason.NODE_CLOSED, condition
        self._settle_transfer(Outcome.MOVED)
        self._end_client(self._last_words(data))

    # --- the ladder

    def _climb(self) -> None:
        transfer = self._transfer
        assert transfer is not None
        traits = Traits(self._tls, self.stream_management, self.full_jid is not None, self._knows_cxfr)
        tried = [rung for rung, _ in transfer.tried]
        transfer.rung = next_rung(traits, transfer.order, tried, try_unknown=self._policy.try_unknown)
        if transfer.rung is Rung.CXFR and not self._ask(transfer):
            transfer.tried.append((Rung.CXFR, Outcome.REFUSED))
            self._climb()
            return
        self._report(Asked(transfer.rung, transfer.order, first=not tried))
        match transfer.rung:
            case Rung.CUT:
                self._cut()
            case Rung.SEE_OTHER_HOST:
                error = stanza.stream_error(StreamCondition.SEE_OTHER_HOST, content=str(transfer.order.server))
                self._close_node_first(self._last_words(error))
            case Rung.RESET:
                error = stanza.stream_error(StreamCondition.RESET, "reconnect")
                self._close_node_first(self._last_words(error))

    def _ask(self, transfer: _Transfer) -> bool:
        """Send the IQ; False where the names at hand can't be written in one."""
        jid = self.full_jid
        assert jid is not None
        transfer.iq_id = connection_transfer.new_id(self._policy.token())
        server = transfer.order.server if self._tls else None
        try:
            request = ConnectionTransfer(
                transfer.iq_id, self._domain, jid, self._domain, server or Server.parse(self._domain)
            )
            self._iq_due = request.to_bytes()
        except ValueError:
            return False
        self.deadline = self._now + self._policy.timeouts.cxfr_timeout
        self._settle_down()
        self._choose_reading()
        return True

    def _next_rung(self, outcome: Outcome) -> None:
        transfer = self._transfer
        assert transfer is not None
        transfer.tried.append((transfer.rung, outcome))
        self._report(Answered(transfer.rung, transfer.order, outcome))
        self._iq_due = None
        self._climb()

    def _settle_transfer(self, outcome: Outcome) -> None:
        """The client has left, or is being left: the transfer, if there is one, is over."""
        transfer, self._transfer = self._transfer, None
        if transfer is not None:
            self._reason = Reason.TRANSFERRED
            transfer.tried.append((transfer.rung, outcome))
            self._report(Transferred(transfer.order, tuple(transfer.tried), self._now - transfer.started))

    def _cut(self) -> None:
        """Both legs end without a word: with XEP-0198 each side can take up where it was cut."""
        self._settle_transfer(Outcome.MOVED)
        if self._client_out:
            self._client_out = False
            self._out.append(EndOutput(Side.CLIENT, quietly=True))
        self._end_node_output()
        self._move(State.CLOSING)
        self._await_others(self._policy.timeouts.see_other_host_timeout)

    # --- the closing

    def _last_words(self, error: bytes = b"") -> bytes:
        """An error, if there is one, and the end of the client's stream, behind a header if it has got none."""
        if self._header_due or self._header_to_client is None:
            header = stanza.stream_header(
                to=self._header_to_node.from_, from_=self._domain, stream_id=self._policy.token(), lang="en"
            )
            return header + error + stanza.STREAM_END
        return error + self._header_to_client.end

    def _close_node_first(self, farewell: bytes) -> None:
        """End the node's stream, pass on what it still sends, then say farewell to the client."""
        self._farewell = farewell
        if self._node_out:
            self._end_node_stream(cleanly=True)
        if self.state is not State.TRANSFERRING:
            self._move(State.CLOSING)
        self._choose_reading()
        if self._node_in:
            self.deadline = self._now + self._policy.timeouts.node_close_timeout
        else:
            self._say_farewell()

    def _say_farewell(self) -> None:
        farewell, self._farewell = self._farewell, None
        assert farewell is not None
        self._end_client(b"" if self._down.cutting else farewell)

    def _end_client(self, last: bytes) -> None:
        """Write the client's last bytes, and wait until it has left."""
        if self._node_out:
            self._end_node_stream(cleanly=True)
        self._end_node_output()
        if self._client_out:
            self._send(Side.CLIENT, last)
            self._end_client_output()
        self._move(State.CLOSING)
        self._await_others(self._policy.timeouts.see_other_host_timeout)

    def _end_client_output(self) -> None:
        self._client_out = False
        self._farewell = None
        self._out.append(EndOutput(Side.CLIENT))

    def _end_node_stream(self, *, cleanly: bool) -> None:
        if self._node_out and cleanly:
            self._send(Side.NODE, self._header_to_node.end)
        self._node_out = False

    def _end_node_output(self) -> None:
        self._node_out = False
        self._out.append(EndOutput(Side.NODE))

    def _await_others(self, seconds: float) -> None:
        self.deadline = self._now + seconds
        self._hold_client = False
        self._finish_if_over()

    def _finish_if_over(self) -> None:
        # A client that broke its stream may still be sending: closing now would make a reset of it, and the error that
        # is on its way might never be read.
        client_done = not self._client_in or (self._client_over and self._reason is not Reason.CLIENT_FAULT)
        if self.state is State.CLOSING and client_done and not (self._client_out or self._node_in):
            self._end(Close())

    def _on_deadline(self) -> None:
        if self._farewell is not None:
            self._say_farewell()  # the node took too long to close
        elif self.state is State.NEGOTIATING:
            self._on_client_fault(ClientError(StreamCondition.CONNECTION_TIMEOUT, "the login took too long"))
            self._reason = Reason.TIMED_OUT
        elif self.state is State.TRANSFERRING and self._transfer is not None:
            self._next_rung(Outcome.STAYED if self._transfer.accepted else Outcome.SILENT)
        elif self.state is State.CLOSING:
            self._give_up(self._reason)

    def _give_up(self, reason: Reason) -> None:
        if self.state is not State.CLOSED:
            self._reason = reason
            self._settle_transfer(Outcome.MOVED)
            self._end(Close(at_once=True))

    def _end(self, last: Close | Upgrade) -> None:
        self.deadline = None
        self._client_in = self._client_out = self._node_in = self._node_out = False
        self._move(State.CLOSED)
        if not self._ended:
            self._ended = True
            self._report(Ended(self._reason, self._condition, self._late, self._undelivered))
        self._out.append(last)
