"""Carry out moves at their pace.

Callers put sessions to be moved into queues. The mover's one task waits until there is a token
(:class:`~.pace.Pace`), and only then looks which session is first (:mod:`.queues`), whether it is still to be moved
(:mod:`.leaving`, :mod:`.homes`), and where to (:mod:`.orders`): minutes may have gone by since it was queued. A session
that turns out to stay takes no token, so no other session waits for it.

All queues draw on the same tokens, since the pace protects the node to which the clients log in next.

A session that stays where it is because nothing could be done is looked at again when something about the nodes changes
(:meth:`Mover.look_again`), at its drain's next stage, and when its client becomes active. One that is too young is set
aside for a moment (:mod:`.young_sessions`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import trio

from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.nodes import SessionOutlook
from cxfr_proxy.cluster.placement import Placement
from cxfr_proxy.cluster.plan import Placed, order_of_leaving
from cxfr_proxy.config.choices import OnNodeDown
from cxfr_proxy.session.commands import Event
from cxfr_proxy.session.ladder import Order, Trigger
from cxfr_proxy.session.session import Session
from cxfr_proxy.session.tables import State
from cxfr_proxy.tasks import Task, keep_going, start
from cxfr_proxy.transfers.announcements import Announcements
from cxfr_proxy.transfers.client_news import AnyClientNews, LandedWrong
from cxfr_proxy.transfers.drain_stages import Stage
from cxfr_proxy.transfers.homes import Homes
from cxfr_proxy.transfers.leaving import FollowedDrain, Leaving
from cxfr_proxy.transfers.move_window import WindowState
from cxfr_proxy.transfers.orders import Orders
from cxfr_proxy.transfers.own_logins import OwnLogins
from cxfr_proxy.transfers.pace import Pace
from cxfr_proxy.transfers.planner import Planner
from cxfr_proxy.transfers.queues import Queues, Urgency, Waiting
from cxfr_proxy.transfers.rebalances import RebalanceCounts, RebalanceTerms
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.transfers.relayed import Addressed, Relayed
from cxfr_proxy.transfers.slow_logins import SlowLogins
from cxfr_proxy.transfers.young_sessions import YoungSessions

_LOOKING_SHARE: Final = 0.1
"""Largest share of the time for looking again at sessions that had nowhere to go."""


class Mover:
    """Moves the sessions of one process; those that the proxy takes to other nodes itself while ``logins`` has room.
    ``migrates`` is that of :class:`~.orders.Orders`."""

    def __init__(
        self,
        cluster: Cluster,
        registry: Registry,
        placement: Placement,
        pace: Pace,
        logins: OwnLogins,
        *,
        on_node_down: OnNodeDown = OnNodeDown.TRANSFER,
        migrates: bool = False,
    ) -> None:
        self._cluster = cluster
        self._registry = registry
        self._pace = pace
        self._logins = logins
        self._on_node_down = on_node_down
        self._orders = Orders(cluster, registry, placement, migrates=migrates)
        self._homes = Homes(cluster, registry, placement)
        self._leaving = Leaving(cluster, self._orders, on_node_down)
        self._announcements = Announcements(registry)
        self._queues = Queues()
        self._young = YoungSessions(cluster, registry, self._leaving, self._queues, self)
        self._planner = Planner(registry, cluster, placement, self._queues, self, self._orders)
        self._work = trio.Event()
        self._news = trio.Event()
        self._waits_for_room = False  # the last session had to wait for that, and not for the pace

    # --- what others ask for

    def enqueue_lost(self, session_id: int, trigger: Trigger) -> None:
        """Queue a session whose node is gone, before those that can wait."""
        self._enqueue(Waiting(session_id, Urgency.LOST, trigger))

    def enqueue_leaving(self, session_id: int) -> None:
        """Queue a session whose node is being emptied, or that leaves with all others."""
        relayed = self._registry.get(session_id)
        if relayed is not None:
            # The trigger does not matter: :meth:`.leaving.Leaving.order_for` finds it when the session's turn has come.
            self._enqueue(Waiting(session_id, self._urgency_on(relayed.session.node), Trigger.DRAIN))

    def look_at(self, relayed: Relayed) -> None:
        """Queue a session that has just begun, if it is not on its user's own node. In a roll it stays."""
        full_jid, memory = relayed.session.full_jid, self._registry.memory
        if full_jid is None or self._cluster.rolling or not self._homes.is_misplaced(relayed.session):
            return
        basis = self._cluster.placement_basis()
        # It was sent here, or is taken for one that was: moving it again would begin a loop with another proxy.
        if memory.has_returned(relayed.id):
            memory.guard.landed_wrong(full_jid, basis)
            self._registry.spread(LandedWrong(full_jid), trio.current_time())
        elif memory.guard.lets(full_jid, basis, trio.current_time()):
            self._enqueue(Waiting(relayed.id, Urgency.WRONG, Trigger.WRONG_NODE))

    def move(self, address: str, node: str) -> int:
        """Send the clients of that user (a JID; with a resource: that client) to the node, at once. Return how many.

        Raises :class:`~cxfr_proxy.cluster.members.UnknownNode`.
        """
        target, now = self._cluster.get(node), trio.current_time()
        addressed, asked = Addressed(address), 0
        for relayed in self._registry:
            session = relayed.session
            movable = session.node != node and session.state is State.BOUND and relayed.id not in self._announcements
            if movable and addressed.includes(session):
                if not self._young.sets_aside(relayed, Waiting(relayed.id, Urgency.WRONG, Trigger.MOVE, node)):
                    self._announcements.send(relayed, self._orders.to(target, relayed, Trigger.MOVE, now), now)
                asked += 1
        return asked

    def follow(self, node: str, stage: Stage, *, late: bool = False) -> None:
        """Carry out that node's drain, which is at that stage; ``late``: it may not be over at its deadline."""
        known = self._leaving.drains.get(node)
        entered = stage is not (known.stage if known is not None else Stage.ALL)
        was_late = self._leaving.is_late(node)
        self._leaving.follow(node, stage, late=late)
        if was_late and not late:
            self._hurry_no_more(node)
        self._logins.changed()  # there may be room for those that are in a hurry now
        if entered and stage is Stage.REST:
            self._close_the_rest(node)
        elif entered and stage is Stage.ABORTED:
            self._recall(node)
        self._queue_the_leaving(node, stage)

    def undrain(self, node: str) -> None:
        """Leave the sessions where they are that have not gone yet. Clients that were asked already are told nothing
        more."""
        if self._leaving.drains.pop(node, None) is not None:
            self._hurry_no_more(node)
            self._recall(node)

    def set_on_node_down(self, on_node_down: OnNodeDown) -> None:
        """Treat the sessions of nodes that are down like that from now on, those of nodes that are down already
        too."""
        if on_node_down is self._on_node_down:
            return
        self._on_node_down = self._leaving.on_node_down = on_node_down
        self._leaving.down.clear()
        for node in self._cluster:
            self.follow_health(node)

    def set_migrates(self, migrates: bool) -> None:
        """Have sessions be taken to other nodes by the proxy from now on, or not: see :class:`~.orders.Orders`."""
        self._orders.migrates = migrates

    def follow_health(self, node: Node) -> None:
        """Have that node's sessions leave or stay, as checks see the node."""
        if node.session_outlook is SessionOutlook.GOOD:
            self._leaving.down.discard(node.name)  # sessions whose clients were not told to move yet stay
        else:
            self._leave_down(node.name)

    def leave(self, trigger: Trigger) -> None:
        """Have all sessions of this process reconnect, whatever their drains' stage. Placement finds a node then."""
        self._leaving.everybody = trigger
        self._enqueue_all_leaving(self._registry.snapshot(trio.current_time()))

    def look_again(self) -> None:
        """Look again at sessions that had nowhere to go: something about the nodes has changed.

        This happens soon, and once for many changes: each time all sessions of the nodes that are leaving are looked
        at.
        """
        self._news.set()

    def follow_rebalance(self, rebalance: RebalanceTerms | None) -> None:
        """Carry out that rebalance; ``None``: none runs."""
        self._planner.follow(rebalance)

    def note(self, session_id: int, event: Event) -> None:
        """Take in what a session reports of its move."""
        self._logins.note(session_id, event)

    def forget(self, session_id: int) -> None:
        """Forget a session that is over."""
        self._logins.forget(session_id)

    def announced(self, session_id: int) -> None:
        """Give that session its order: all processes were told where its client is to go."""
        self._announcements.made(session_id, trio.current_time())
        self._logins.changed()

    def take_news(self, news: AnyClientNews, seconds_ago: float = 0.0) -> None:
        """Take over what another process saw of a client so long ago."""
        self._registry.memory.apply(news, trio.current_time() - seconds_ago)
        if isinstance(news, LandedWrong):
            self._registry.memory.guard.landed_wrong(news.full_jid, self._cluster.placement_basis())

    # --- how far it is

    @property
    def migrates(self) -> bool:
        """Whether the proxy takes sessions to other nodes itself; see :class:`~.orders.Orders`."""
        return self._orders.migrates

    @property
    def drains(self) -> dict[str, FollowedDrain]:
        """The drains by node."""
        return self._leaving.drains

    def is_leaving(self, node: str) -> bool:
        """Return whether sessions of that node are to leave. A node without a line that was empty may be forgotten
        while a client is being connected to it."""
        listed = node in self._cluster
        return not listed or self._cluster.get(node).leaving or node in self._leaving.down

    @property
    def moves(self) -> WindowState:
        """How it stands with those that the proxy takes to other nodes itself."""
        return self._logins.window.state(paced=self._waits_for_room)

    def rebalance_counts(self) -> RebalanceCounts:
        """Return how far the rebalance is here."""
        return self._planner.counts(self._announcements.count(Trigger.REBALANCE))

    # --- the one task, and those that fill the queues again

    async def run(self) -> None:
        """Move until cancelled."""
        async with trio.open_nursery() as nursery:
            start(nursery, Task.DRAINS, SlowLogins(self._registry, self._leaving).run)
            start(nursery, Task.REBALANCE, self._planner.run)
            start(nursery, Task.LOOKING, self._look_again_when_asked)
            start(nursery, Task.MOVER, self._young.run)
            await keep_going(Task.MOVER, self._move_all)

    async def _move_all(self) -> None:
        while True:
            await self._wait_for_work()
            await self._wait_for_room()
            await self._pace.wait()
            # A session that turns out to stay has not used the token: the next one gets it.
            if self._move_first():
                self._pace.spend()
                self._tell_pace()

    async def _wait_for_work(self) -> None:
        while not self._queues:
            self._waits_for_room = False
            self._logins.window.begin_anew()
            self._pace.rest()
            self._work = trio.Event()
            await self._work.wait()

    async def _wait_for_room(self) -> None:
        """Wait until a session can be taken to another node, if all wait for that. One that the proxy can't take
        anywhere need not wait."""
        waits = False
        while self._queues and ((waiting := self._first) is None or not self._has_room(waiting)):
            self._waits_for_room = waits = True
            if waiting is not None:
                self._queues.note_without_room(waiting)
                await trio.lowlevel.checkpoint()
            else:
                self._tell_pace()  # some may have turned out to stay
                await self._logins.change()
        passed_over = self._first is not next(self._queues.heads, None)
        self._waits_for_room = waits or passed_over

    @property
    def _first(self) -> Waiting | None:
        """The session whose turn it is: the first one that has room, or of which it is not known that it has none;
        ``None``: all wait for room."""
        heads = self._queues.heads
        return next((each for each in heads if not self._queues.is_without_room(each) or self._has_room(each)), None)

    def _has_room(self, waiting: Waiting) -> bool:
        relayed = self._registry.get(waiting.session_id)
        if relayed is None or self._leaving.everybody is not None:
            return True
        if not self._orders.may_migrate(relayed) or not (waiting.may_stay or self._leaving.concerns(relayed.session)):
            return True
        hurried = self._leaving.in_a_hurry(relayed.session.node)
        return self._logins.has_room(coming=self._announcements.migrating, hurried=hurried)

    def _move_first(self) -> bool:
        """Take the session whose turn it is out of its queue. Return whether it was given an order."""
        waiting, now = self._first, trio.current_time()
        if waiting is None or not self._has_room(waiting):  # others may need none
            return False
        self._queues.take_out(waiting.session_id, waiting.urgency)
        relayed = self._registry.get(waiting.session_id)
        if relayed is None or relayed.session.rung is not None:
            return False
        if self._young.sets_aside(relayed, waiting):
            return False
        match waiting.urgency:
            case Urgency.LOST:
                return _give(relayed, self._orders.away(relayed, waiting.trigger, now))
            case Urgency.DOWN:
                return _give(relayed, self._leaving.order_from_down(relayed, now))
            # It has fallen asleep since it was queued: it goes behind those that are in use.
            case Urgency.LEAVING if relayed.session.inactive:
                self._queues.put(replace(waiting, urgency=Urgency.ASLEEP))
                return False
            case Urgency.LATE | Urgency.LEAVING | Urgency.ASLEEP:
                return _give(relayed, self._leaving.order_for(relayed, now))
            case Urgency.WRONG | Urgency.REBALANCED:
                return self._place(relayed, waiting, now)

    def _place(self, relayed: Relayed, waiting: Waiting, now: float) -> bool:
        """Move a session that could as well stay. Return whether it was given an order."""
        session = relayed.session
        if self._leaving.everybody is not None or relayed.id in self._announcements:
            return False
        if self._cluster.rolling and waiting.trigger is not Trigger.MOVE:
            return False  # it would have to go once more
        target = self._target_of(session, waiting) if self._homes.may_move(session) else None
        if target is None or target.name == session.node:
            return False
        held_until = self._registry.memory.held_until(relayed.id, now)
        if held_until is not None and waiting.trigger is not Trigger.MOVE:
            if waiting.urgency is Urgency.REBALANCED:
                # Counted, so that the rebalance is not over without saying so.
                self._planner.hold(relayed.id, held_until)
            return False
        order = self._orders.to(target, relayed, waiting.trigger, now)
        # A better place is not worth a session whose client would not come back, unless nobody notices.
        if session.stays_down and not (order.forced or order.migrates):
            return False
        self._announcements.send(relayed, order, now)
        return True

    def _target_of(self, session: Session, waiting: Waiting) -> Node | None:
        if waiting.trigger is not Trigger.MOVE:
            return self._homes.node_for(session, waiting.target)
        listed = waiting.target is not None and waiting.target in self._cluster
        return self._cluster.get(waiting.target) if waiting.target is not None and listed else None

    # --- the queues

    def _enqueue_all_leaving(self, snapshot: Iterable[Placed], urgency: Urgency = Urgency.LEAVING) -> None:
        # The mover is woken once, and not for each of thousands.
        waiting = (Waiting(each.session_id, urgency, Trigger.DRAIN) for each in order_of_leaving(snapshot))
        if sum(map(self._queues.put, waiting)):
            self.queued()

    def _enqueue(self, waiting: Waiting) -> None:
        if self._queues.put(waiting):
            self.queued()

    def queued(self) -> None:
        """Wake the mover: there are more sessions in the queues."""
        self._work.set()
        self._logins.changed()  # it may be the turn of one that need not wait for them
        self._tell_pace()

    def _tell_pace(self) -> None:
        self._pace.queued(
            lost=self._queues.length(Urgency.LOST),
            leaving=self._queues.leaving,
            hurried=self._queues.hurried,
            misplaced=self._queues.misplaced,
        )

    def progressed(self) -> None:
        """Note that a rebalance was planned, or holds another session."""
        self._registry.changed()

    async def _look_again_when_asked(self) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            began = time.thread_time()
            self._look_at_the_leaving()
            # By CPU time and not by the clock: on a busy machine, waiting for the core is no work of ours.
            await trio.sleep((time.thread_time() - began) / _LOOKING_SHARE)

    def _look_at_the_leaving(self) -> None:
        for node, drain in self.drains.items():
            # Their turns will show whether there still is one.
            drain.waiting_reason = None
            self._queue_the_leaving(node, drain.stage)
        for node in tuple(self._leaving.down):
            self._leave_down(node)

    def _queue_the_leaving(self, node: str, stage: Stage) -> None:
        """Queue all sessions that are still there; their turn shows which of them are moved."""
        if stage.moves:
            self._enqueue_all_leaving(self._registry.snapshot(trio.current_time(), node), self._urgency_on(node))

    def _urgency_on(self, node: str) -> Urgency:
        """Return how urgently sessions leave that node, which is being emptied."""
        return Urgency.LATE if self._leaving.is_late(node) else Urgency.LEAVING

    def _hurry_no_more(self, node: str) -> None:
        """Take the sessions of that node out of the queue of late drains."""
        for relayed in self._registry.on_node(node):
            self._queues.take_out(relayed.id, Urgency.LATE)
        self.queued()  # others may go before them now, in other processes as well

    def _leave_down(self, node: str) -> None:
        """Queue the sessions of a node that checks are sure is down, before those that only drain."""
        if self._on_node_down is OnNodeDown.KEEP:
            return
        self._leaving.down.add(node)
        now = trio.current_time()
        for session in order_of_leaving(self._registry.snapshot(now, node)):
            waiting = Waiting(session.session_id, Urgency.DOWN, Trigger.NODE_DOWN)
            relayed = self._registry.get(session.session_id)
            if self._on_node_down is OnNodeDown.TRANSFER:
                self._enqueue(waiting)
            elif relayed is not None and relayed.session.rung is None and not self._young.sets_aside(relayed, waiting):
                _give(relayed, self._leaving.order_from_down(relayed, now))

    def _close_the_rest(self, node: str) -> None:
        now = trio.current_time()
        for relayed in self._registry.on_node(node):
            if not self._young.sets_aside(relayed, Waiting(relayed.id, Urgency.LEAVING, Trigger.DRAIN)):
                _give(relayed, self._leaving.order_for_the_rest(relayed, now))

    def _recall(self, node: str) -> None:
        for relayed in self._registry.on_node(node):
            transfer = relayed.session.transfer_under_way
            if transfer is not None and transfer.order.trigger is Trigger.DRAIN:
                relayed.recall()


def _give(relayed: Relayed, order: Order | None) -> bool:
    if order is None:
        return False
    relayed.transfer(order)
    return True
