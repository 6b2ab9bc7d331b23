"""A session as its relay sees it: bytes, ends, orders and time in; commands out.

It is one client, from its header to its last byte, and the node that it is with. :mod:`.parts` has its parts,
:mod:`.tables` its states, and docs/session-states.md shows the states as a picture. A session decides and never acts:
each method here lets one thing happen to the parts and returns the commands that follow.

There are two ways to read a direction:

* ``fast[side]`` is the lane of the bytes that *come from* that side while nothing about them has to be known: the relay
  scans it itself, sends on what it releases, and calls :meth:`Session.receive_scanned` only when its framer reports
  events;
* otherwise it is ``None``, and every byte goes through :meth:`Session.receive`, element by element. That is so whenever
  the session has to see each element; :meth:`.parts.Parts.choose_reading` has the conditions.
"""

from __future__ import annotations

from typing import Final

from cxfr_proxy.errors import ClientError
from cxfr_proxy.session import client_stream, climbing, ending, exchanging, node_end, node_stream, standing_in
from cxfr_proxy.session.client_software import Software
from cxfr_proxy.session.commands import EarlyLogin, Forgo, Outcome, Reason, SessionCommand, Side
from cxfr_proxy.session.ladder import Order, Rung
from cxfr_proxy.session.legs import ClientLeg, NodeLeg, node_lane
from cxfr_proxy.session.node_owes import End
from cxfr_proxy.session.opening import Opening
from cxfr_proxy.session.parts import Parts
from cxfr_proxy.session.policy import Policy
from cxfr_proxy.session.tables import Intake, State, Where
from cxfr_proxy.session.transfer import TransferAttempt
from cxfr_proxy.xmpp.framing.lane import Lane
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.opening.header import StreamHeader
from cxfr_proxy.xmpp.opening.negotiation import Negotiation

__all__ = ["Policy", "Session", "State"]

_CLIENT: Final = Side.CLIENT
_NODE: Final = Side.NODE
_NOTHING: Final = Intake.NOTHING
_BEHIND: Final = Intake.BEHIND
_BYTES: Final = Intake.BYTES


class Session:
    """One client and its node; see the module. ``now`` is the relay's clock, in seconds.

    ``unread`` of ``up`` is what the client has sent already. ``early_login``: another node may still be chosen by the
    user that logs in, and what the client was shown already it does not get from this node again. ``None``: this node
    is final. ``silent`` are the names of nodes that have not greeted this client.
    """

    __slots__ = ("_parts", "fast")

    def __init__(
        self,
        header: StreamHeader,
        up: Lane,
        policy: Policy,
        *,
        node: str,
        tls: bool,
        offer_starttls: bool = False,
        early_login: EarlyLogin | None = None,
        silent: tuple[str, ...] = (),
    ) -> None:
        limits = policy.limits
        # A login may contain a password: it is held until the node has greeted.
        shown = early_login.shown if early_login is not None else None
        client = ClientLeg(header, up, tls=tls, shown=shown, held=early_login is not None)
        negotiation = Negotiation(
            offer_starttls=offer_starttls,
            max_bytes=limits.max_element_up,
            check_authzid=policy.check_authzid,
            known=policy.surroundings,
            new_id=policy.surroundings.new_token if policy.wrap_resumable_ids else None,
        )
        leg = NodeLeg(node, header, node_lane(max_element_bytes=limits.max_element_down))
        self._parts = Parts(client, leg, policy, Opening(early_login, silent), negotiation, header.to or "")
        self.fast: list[Lane | None] = self._parts.fast
        """By :class:`Side`: the lane that may be scanned without asking."""

    def follow(self, policy: Policy) -> None:
        """Go by these settings from now on; what they say of logins, and of ids to resume by, was settled when it
        began."""
        self._parts.follow(policy)

    # --- what others ask

    @property
    def state(self) -> State:
        return self._parts.state

    @property
    def node(self) -> str:
        """The name of the node that the session is with now."""
        return self._parts.node.name

    @property
    def full_jid(self) -> str | None:
        """The client's full JID, from bind on; ``None`` for a resumed session that began elsewhere."""
        return self._parts.negotiation.full_jid

    @property
    def domain(self) -> str:
        """The domain that the client asked for."""
        return self._parts.domain

    @property
    def software(self) -> Software:
        """The client's words about itself so far."""
        return self._parts.software

    @property
    def tls(self) -> bool:
        return self._parts.client.tls

    @property
    def stream_management(self) -> bool:
        """XEP-0198 is on."""
        return self._parts.accounting.management.on

    @property
    def resumable_id(self) -> str | None:
        """The id by which the client can resume its stream; ``None`` if it can't."""
        management = self._parts.accounting.management
        return management.id if management.resumable else None

    @property
    def can_be_resumed(self) -> bool:
        """Whether the client may resume this stream elsewhere, and will find its counts right there."""
        return self._parts.accounting.can_be_resumed

    @property
    def inactive(self) -> bool:
        """The client has said that nobody looks at it (XEP-0352)."""
        return self._parts.negotiation.inactive

    @property
    def stays_down(self) -> bool:
        """The client is known not to come back once its stream has ended: it is moved only if something forces it."""
        return self._parts.stays_down

    @property
    def rung(self) -> Rung | None:
        """The rung being tried; ``None`` when no transfer runs."""
        transfer = self._parts.transfer
        return transfer.rung if transfer is not None else None

    @property
    def transfer_under_way(self) -> TransferAttempt | None:
        """The transfer that runs, to look at; ``None`` if there is none."""
        return self._parts.transfer

    @property
    def can_migrate(self) -> bool:
        """The proxy could resume it on another node, in the place of its client (XEP-0198)."""
        return exchanging.can_begin(self._parts)

    @property
    def node_lost(self) -> bool:
        """The node's stream is over although the client's is not."""
        return not self._parts.node.writable

    @property
    def deadline(self) -> float | None:
        """The time at which to call :meth:`tick`; ``None``: never."""
        parts = self._parts
        if parts.stand_in is None and parts.replay is None:
            return parts.deadline
        due = standing_in.due(parts)
        return parts.deadline if due is None or (parts.deadline is not None and parts.deadline < due) else due

    def wants(self, side: Side) -> bool:
        """Return whether bytes from that side should be read now."""
        return self.intake(side) is not _NOTHING

    def intake(self, side: Side) -> Intake:
        """Return what is to be read of that side now. Asked of both sides whenever something has happened.

        One call looks at a bounded number of elements, so that a side that sends much to look at does not keep the
        others waiting. The rest waits in its lane, and :meth:`read_on` comes before the side brings any more.
        """
        parts = self._parts
        if side is _CLIENT:
            leg = parts.client
            if not leg.wanted:
                return _NOTHING
            return _BEHIND if leg.lane.unread and not leg.over else _BYTES
        node = parts.node
        if not node.wanted or (parts.closing is not None and not parts.has_room):
            return _NOTHING
        return _BEHIND if node.lane.unread else _BYTES

    # --- what happens

    def start(self, now: float) -> list[SessionCommand]:
        """Open the node's stream with the client's header, and read what the client has sent behind it.

        A login that waits there is sent when the node has greeted, and to no other: it may be a password.
        """
        parts, opening, timeouts = self._parts, self._parts.opening, self._parts.policy.timeouts
        assert opening is not None, "nothing has happened yet"
        parts.begin(now)
        opening.begin(now, timeouts.negotiation_timeout)
        parts.wait_until(min(opening.bind_by, now + timeouts.node_greeting_timeout))
        parts.node.open(parts.client.header)
        parts.send(_NODE, parts.client.header.raw)
        client_stream.read(parts)
        return parts.take()

    def receive(self, side: Side, data: bytes, now: float) -> list[SessionCommand]:
        """Take bytes from a side whose ``fast`` lane is ``None``."""
        parts = self._parts
        parts.begin(now)
        if side is _NODE:
            parts.node.lane.feed(data)
            node_stream.read(parts)
        else:
            if not parts.client.over:
                parts.client.lane.feed(data)
            client_stream.read(parts)
        return parts.take()

    def read_on(self, side: Side, now: float) -> list[SessionCommand]:
        """Read what that side has brought."""
        parts = self._parts
        parts.begin(now)
        if side is _NODE:
            node_stream.read(parts)
        else:
            client_stream.read(parts)
        return parts.take()

    def receive_scanned(self, side: Side, ready: bytes, now: float) -> list[SessionCommand]:
        """Go on with a chunk that the fast lane of that side has turned into ``ready`` and framer events."""
        self._parts.begin(now)
        if side is _CLIENT:
            client_stream.on_scanned(self._parts, ready)
        else:
            node_stream.on_scanned(self._parts, ready)
            node_stream.do_what_is_due(self._parts)
        return self._parts.take()

    def eof(self, side: Side, now: float) -> list[SessionCommand]:
        """Act on the end of that side's connection, with or without the end of its stream."""
        self._parts.begin(now)
        if side is _CLIENT:
            client_stream.on_eof(self._parts)
        else:
            node_end.on_eof(self._parts)
        return self._parts.take()

    def client_at_fault(self, condition: str, text: str, now: float) -> list[SessionCommand]:
        """End the client's stream as at a fault of its own: the client has broken what carries it."""
        self._parts.begin(now)
        client_stream.on_broken_carrier(self._parts, ClientError(condition, text))
        return self._parts.take()

    def stalled(self, side: Side, now: float) -> list[SessionCommand]:
        """Give up: that side has taken no bytes for too long."""
        self._parts.begin(now)
        ending.give_up(self._parts, Reason.STALLED)
        return self._parts.take()

    def tick(self, now: float) -> list[SessionCommand]:
        """Act on the time. Does nothing before the deadline."""
        parts = self._parts
        parts.begin(now)
        if not standing_in.on_time(parts):
            ending.give_up(parts, Reason.STALLED)
        if parts.deadline is not None and now >= parts.deadline:
            parts.wait(None)
            _on_deadline(parts)
        return parts.take()

    def due(self, *, backlogged: bool) -> float | None:
        """Return when to call :meth:`tick`; ``None``: never. ``backlogged``: the client has not taken all that was
        sent.

        While a stream is being closed, a client that reads slowly is waited for, since it can't answer what it has not
        read yet; but not for ever.
        """
        parts = self._parts
        # Twice the stall timeout: the pump cuts a client that takes no byte at all after one; this one takes some.
        if backlogged and parts.closing is not None:
            latest = parts.closing.since + 2 * parts.policy.timeouts.write_stall_timeout
            return latest if parts.deadline is None else max(latest, parts.deadline)  # before it tick() does nothing
        return parts.deadline if parts.stand_in is None and parts.replay is None else self.deadline

    def caught_up(self, side: Side, now: float) -> None:
        """Begin to wait for that side's answer only now, while closing: it has taken all that was sent to it."""
        parts = self._parts
        if side is _CLIENT and parts.closing is not None and parts.deadline is not None:
            parts.begin(now)
            parts.wait(parts.closing.wait_seconds)

    # --- what the operator wants

    def transfer(self, order: Order, now: float) -> list[SessionCommand]:
        """Move this client.

        Only a bound session can be moved, and not while it is resumed on another node; others ignore the order. A
        client that is being asked already is not waited for any more if the order is ``hurried``: the next rung follows
        at once. A login that waits for a dead node is ended.
        """
        parts = self._parts
        parts.begin(now)
        transfer = parts.transfer
        if parts.movable:
            transfer = parts.begin_transfer(order)
            # A dead node is given up first, so that the rungs are chosen without it; giving it up may end the session.
            if not order.node_dead or node_end.on_death(parts):
                climbing.climb(parts, transfer, first=True)
        elif parts.state is State.NEGOTIATING and order.node_dead:
            node_end.on_death(parts)
        elif parts.broken:
            if order.hurried or order.node_dead:
                node_end.on_no_recovery(parts, "there was no time to take it up again")
        elif order.hurried and transfer is not None and transfer.is_question:
            # Only a question can be hurried: any other rung has begun to end the stream.
            transfer.hurry(order)
            climbing.try_next_rung(parts, transfer, Outcome.SILENT)
        elif order.hurried and transfer is not None and parts.on_old_leg:
            transfer.hurry(order)
            climbing.stay_with_node(parts, Outcome.SILENT)
        return parts.take()

    def recall(self, now: float) -> list[SessionCommand]:
        """Take the order back. A client that was asked may still go; one that does not stays.

        Does nothing once a rung has done more than ask: a stream whose end has begun ends. A session that is being
        taken to another node goes there, if it has left its own.
        """
        parts, transfer = self._parts, self._parts.transfer
        parts.begin(now)
        if transfer is not None and transfer.is_question and parts.node.writable:
            transfer.recall()
            if transfer.due:
                climbing.try_next_rung(parts, transfer, Outcome.SILENT)  # the client has not got the question either
        elif transfer is not None and parts.on_old_leg:
            transfer.recall()
            climbing.stay_with_node(parts, Outcome.SILENT)
        return parts.take()

    def dialled(self, leg: NodeLeg, now: float) -> list[SessionCommand]:
        """Answer :class:`~.commands.Dial`: on this leg the user is logged in, and the session can be resumed. The
        answer may come at any time, even if it is not waited for any more."""
        parts = self._parts
        parts.begin(now)
        if not exchanging.is_awaited(parts, leg.name):
            parts.issue(Forgo())
        elif not exchanging.speaks_alike(parts, leg):
            _on_stuck(parts, "its stream has other prefixes than the client's", Outcome.REFUSED)
        else:
            exchanging.on_dialled(parts, leg)
        return parts.take()

    def not_dialled(self, why: str, now: float, *, broke: bool = False) -> list[SessionCommand]:
        """Answer :class:`~.commands.Dial`: there is no such leg. ``broke``: a connection was accepted, and broke."""
        parts = self._parts
        parts.begin(now)
        if exchanging.is_awaited(parts) and not (broke and exchanging.dial_again(parts)):
            _on_stuck(parts, why, Outcome.REFUSED, reachable=False)
        return parts.take()

    def kick(self, now: float) -> list[SessionCommand]:
        """End both streams in good order; does nothing where that has begun already."""
        parts = self._parts
        parts.begin(now)
        if parts.closing is None and parts.state is not State.CLOSED:
            client_stream.dismiss(parts)
        return parts.take()

    def stop(self, now: float) -> list[SessionCommand]:
        """End at once, without waiting for anybody."""
        self._parts.begin(now)
        ending.give_up(self._parts, Reason.STOPPED)
        return self._parts.take()


def _on_stuck(parts: Parts, why: str, outcome: Outcome, *, reachable: bool = True) -> None:
    """Go on without the leg that was waited for. Where there is no other one, the node counts as lost."""
    if parts.broken:
        node_end.on_no_recovery(parts, why, reachable=reachable)
    else:
        climbing.on_stuck(parts, why, outcome, reachable=reachable)


def _on_deadline(parts: Parts) -> None:
    opening, transfer, closing = parts.negotiating, parts.transfer, parts.closing
    if closing is not None and closing.farewell is not None:
        if closing.question is not None and closing.question.open:
            ending.on_no_last_answer(parts)
        else:
            ending.say_farewell(parts)  # the node took too long to close
    # Two limits use the one timer while negotiating; the earlier one is for the greeting.
    elif opening is not None and parts.now < opening.bind_by:
        node_end.on_no_greeting(parts)
    elif opening is not None:
        ending.blame_node(parts, End.SILENCE)
        error = ClientError(StreamCondition.CONNECTION_TIMEOUT, "the login took too long")
        client_stream.on_fault(parts, error, Reason.TIMED_OUT)
    elif parts.where is Where.RESUMING:
        node_end.on_no_resumption(parts)
    elif parts.exchange is not None and (parts.on_old_leg or parts.broken):
        _on_stuck(parts, exchanging.why_late(parts.exchange), Outcome.SILENT)
    elif parts.state is State.TRANSFERRING and transfer is not None:
        if transfer.unanswered:
            climbing.learn(parts, None)
        climbing.try_next_rung(parts, transfer, Outcome.STAYED if transfer.accepted else Outcome.SILENT)
    # The client has had its time to leave, or the node to end.
    elif parts.state is State.CLOSING:
        ending.give_up(parts, parts.reason)
