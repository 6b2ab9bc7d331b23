"""A session as its relay sees it: bytes, ends, orders and time in; commands out.

::

    NEGOTIATING -> BOUND -> TRANSFERRING -> CLOSING -> CLOSED        (and from each to CLOSING and CLOSED)
                     ^___________|                                   (recalled, and still there)

One object in layers, each in a file, each standing on the ones before it:

============ =========================================================================================================
state        the table of states and moves, what the operator decided, a transfer under way
core         who may still speak; sending; how everything ends
acks         what is acknowledged where the proxy adds and takes
settling     the last questions before the node's stream is ended
moving       the ladder, climbed
client_side  what the client's stream brings
node_side    what the node's stream brings
session      what the relay calls (here)
============ =========================================================================================================

Which direction may be read how:

* ``fast[side]`` is the lane of the bytes that *come from* that side while nothing about them has to be known: the relay
  scans it itself, sends what comes out, and calls :meth:`Session.noted` only when something was noted;
* else it is ``None``, and every byte goes through :meth:`Session.receive`, element by element. So it is while the
  stream is negotiated, and for the client's side while a transfer runs or the node is gone, when each stanza may need
  an answer.

A session does not assume that it has one node for life: ``node`` is a name, the node's leg may be gone while the client
lives, and everything about it is in ``_node_*``.
"""

from __future__ import annotations

from cxfr_proxy.errors import ClientError
from cxfr_proxy.session.commands import Command, Outcome, Reason, Side
from cxfr_proxy.session.ladder import Order, Rung
from cxfr_proxy.session.node_owes import End
from cxfr_proxy.session.node_side import NodeSide
from cxfr_proxy.session.state import MOVES, Policy, State, Transfer
from cxfr_proxy.xmpp.names import StreamCondition

__all__ = ["MOVES", "Policy", "Session", "State"]


class Session(NodeSide):
    """See the module. Each method answers with the commands that follow; ``now`` is the relay's clock, in seconds."""

    __slots__ = ()

    def start(self, now: float) -> list[Command]:
        """Open the node's stream with the client's header, and read what the client has sent behind it.

        A login that waits there is sent when the node has greeted, and to no other: it may be a password.
        """
        self._now = now
        chosen = self._chosen
        timeouts = self._policy.timeouts
        self._login_by = now + timeouts.negotiation_timeout if chosen is None else chosen.bind_by
        self.deadline = min(self._login_by, now + timeouts.node_greeting_timeout)
        self._send(Side.NODE, self._header_to_node.raw)
        if self._turn is not None:
            self._turn.opened(now)
        self._read_client()
        return self._take()

    def receive(self, side: Side, data: bytes, now: float) -> list[Command]:
        """Bytes from a side whose ``fast`` lane is ``None``."""
        if side is Side.NODE:
            self._down.feed(data)
        elif not self._client_over:
            self._up.feed(data)
        return self.read_on(side, now)

    def is_behind(self, side: Side) -> bool:
        """Whether bytes of that side's wait here to be read: :meth:`read_on` is called before it brings any more.

        There is a bound on what is looked at in one call, so that who sends much to look at waits for the others.
        """
        if side is Side.NODE:
            return self._down.unread and self.wants(side)
        return self._up.unread and self.wants(side) and not self._client_over

    def read_on(self, side: Side, now: float) -> list[Command]:
        """Read what that side has brought."""
        self._now = now
        if side is Side.NODE:
            self._read_node()
        else:
            self._read_client()
        return self._take()

    def noted(self, side: Side, ready: bytes, now: float) -> list[Command]:
        """The fast lane of that side has turned a chunk into ``ready`` and noted something in it."""
        self._now = now
        if side is Side.CLIENT:
            for piece in self._up.pieces(ready):
                self._on_client_piece(piece)
        else:
            for piece in self._down.pieces(ready):
                self._on_node_piece(piece)
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

    def due(self, *, backlogged: bool) -> float | None:
        """When to call :meth:`tick`; ``None``: no need to. ``backlogged``: the client has not taken all that was sent.

        While a stream is being closed, a client that reads slowly is waited for: nobody can answer what it has not read
        yet. But not without end.
        """
        if backlogged and self._closing_since is not None:
            return self._closing_since + 2 * self._policy.timeouts.write_stall_timeout
        return self.deadline

    def caught_up(self, side: Side, now: float) -> None:
        """That side has taken all that was sent to it: what it is waited for while closing begins now."""
        if side is Side.CLIENT and self._closing_since is not None and self.deadline is not None:
            self.deadline = now + self._closing_wait

    def transfer(self, order: Order, now: float) -> list[Command]:
        """Move this client.

        Only a bound session can be moved; others ignore the order. One that is being asked already is asked no more if
        the order is ``hurried``: the next rung follows at once. A login that waits for a dead node is ended.
        """
        self._now = now
        if self.state is State.BOUND:
            self._transfer = Transfer(order, now)
            self._move(State.TRANSFERRING)
            if not order.node_dead or self._give_up_node():
                self._climb(first=True)
        elif self.state is State.NEGOTIATING and order.node_dead:
            self._on_client_unserved()
        elif order.hurried and self._transfer is not None and self._transfer.rung is Rung.CXFR:
            self._transfer.order, self._transfer.recalled = order, False
            self._next_rung(Outcome.SILENT)
        return self._take()

    def recall(self, now: float) -> list[Command]:
        """The order is taken back. A client that was asked may still go; one that does not stays.

        Does nothing where there is more than a question: a stream whose end has begun ends.
        """
        self._now = now
        transfer = self._transfer
        if transfer is not None and transfer.rung is Rung.CXFR and self._node_out:
            transfer.recalled = True
            if self._iq_due is not None:
                self._next_rung(Outcome.SILENT)  # nor has the client got the question
        return self._take()

    def stop(self, now: float) -> list[Command]:
        """End at once, without waiting for anybody."""
        self._now = now
        self._give_up(Reason.STOPPED)
        return self._take()

    def _on_deadline(self) -> None:
        if self._settlement is not None and not self._settlement.over and self._farewell is not None:
            self._settled(answered=False)
        elif self._farewell is not None:
            self._say_farewell()  # the node took too long to close
        elif self.state is State.NEGOTIATING and self._now < self._login_by:
            self._on_no_greeting()
        elif self.state is State.NEGOTIATING:
            self._blame(End.SILENCE)
            self._on_client_fault(ClientError(StreamCondition.CONNECTION_TIMEOUT, "the login took too long"))
            self._reason = Reason.TIMED_OUT
        elif self.state is State.TRANSFERRING and self._transfer is not None:
            if self._waits_for_answer:
                self._learn(None)
            self._next_rung(Outcome.STAYED if self._transfer.accepted else Outcome.SILENT)
        elif self.state is State.CLOSING:
            self._give_up(self._reason)
