"""Carries out moves at their pace.

Whoever wants a session moved puts it in the queue; the mover's one task waits until there is a token, and only then
looks who is first, whether that one is still to be moved, and where to: minutes may have gone by since it was queued.
Who turns out to stay takes no token, so nobody waits for it.

There are queues by urgency (:mod:`.queues`). Sessions whose node is gone go first: their clients are without
service, the others only will be. Of those that have to leave, clients that are not in use (XEP-0352) come after the
others, whenever they fell asleep; sessions that are only not where they belong go last. All draw on the same bucket,
since what the pace protects is the node that the clients log in to next.

A session queued for a drain stays where it is if no other node can take it, or if its drain is not at the stage for it
(:mod:`.drain_stages`). It is looked at again when something about the nodes changes (:meth:`Mover.look_again`), at the
next stage, and when its client becomes active. One whose node is gone can't stay: it is told to reconnect, and finds
what there is then.

A session that sits on the wrong node stays there if by its turn it is the right one, if the node is being emptied or
down (which is another's matter), if its client was moved already (:mod:`.loop_guard`), or if that is known not to come
back (:mod:`cxfr_proxy.session.client_software`): a place that is only better is worth no session.

Where nodes share sessions, one that is younger than :data:`SETTLED_SECONDS` is set aside until it is as old, whatever
it is to be moved for: ejabberd tells sessions of one resource apart by the second in which they began, and a client
that resumes on another node in the second of its bind, or of its last move, is thrown out by the node that it came
from. Those whose node is dead are not kept waiting: nobody is there to throw them out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

import trio

from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.nodes import Health, NodeSpec, Resume, SessionOutlook
from cxfr_proxy.cluster.placement import Placement, rank_to_resume
from cxfr_proxy.cluster.plan import order_of_leaving
from cxfr_proxy.config.table import OnNodeDown
from cxfr_proxy.session.ladder import Order, Trigger
from cxfr_proxy.session.session import Session
from cxfr_proxy.session.tables import State
from cxfr_proxy.spellings import user_key
from cxfr_proxy.tasks import Task, keep_going, start
from cxfr_proxy.transfers.drain_stages import Schedule, Stage
from cxfr_proxy.transfers.drains import Drain, Drains, OwnPace, Pace, Rate
from cxfr_proxy.transfers.planner import Planner
from cxfr_proxy.transfers.queues import Queues, Urgency, Waiting
from cxfr_proxy.transfers.rebalances import RebalanceCounts, Rebalancing
from cxfr_proxy.transfers.registry import Registry, Relayed, user_of
from cxfr_proxy.xmpp import jid
from cxfr_proxy.xmpp.connection_transfer import Server

LOGIN_SECONDS: Final = 10.0
"""How long a login on a node that is being emptied may have taken: people are asked for passwords before."""

SETTLED_SECONDS: Final = 2.0
"""The second of its bind is over by then, also on a node whose clock goes a little wrong."""
_LOOKING_SHARE: Final = 0.1
"""Of the time, for looking again at who had nowhere to go."""


class Announcer(Protocol):
    """Lets other processes know which clients are about to be sent to a certain node: they may come back there."""

    def announce(self, relayed: Relayed, order: Order) -> None:
        """To be told so; :meth:`Mover.announced` when all of them were told."""

    def withdraw(self, relayed: Relayed, order: Order) -> None:
        """It is not, after all."""


class Mover:
    """See the module. ``transfer_rate`` in clients a second; ``clock`` is the relay's; ``pace`` is a bucket of the
    mover's own unless one is given; ``report`` as for :class:`~.drains.Drains`; ``changed`` is called when a
    rebalance was planned; ``announcer`` where clients can come back to other processes."""

    def __init__(
        self,
        cluster: Cluster,
        registry: Registry,
        placement: Placement,
        *,
        transfer_rate: float,
        on_node_down: OnNodeDown = OnNodeDown.TRANSFER,
        clock: Callable[[], float] = trio.current_time,
        pace: Pace | None = None,
        report: Callable[[str, Drain], None] | None = None,
        changed: Callable[[], object] = lambda: None,
        announcer: Announcer | None = None,
    ) -> None:
        self._on_node_down = on_node_down
        self._announcer = announcer
        self._changed = changed
        self._announced: dict[int, tuple[Relayed, Order]] = {}  # not told yet
        self._cluster = cluster
        self._registry = registry
        self._placement = placement
        self._clock = clock
        self._pace = pace if pace is not None else OwnPace(transfer_rate, clock)
        self.tempo = Rate(self._pace, transfer_rate)
        self._drains = Drains(
            self.tempo,
            counts_of=registry.of_node,
            awaited=self.awaited,
            advanced=self._advance,
            look_after=self._stop_logins,
            report=report,
            clock=clock,
        )
        self._queues = Queues()
        self._planner = Planner(registry, cluster, placement, self._queues, queued=self._wake, changed=changed)
        self.down: set[str] = set()
        """Nodes whose sessions leave because checks find them down."""
        self._everybody: Trigger | None = None  # why all sessions leave, whatever node they are on
        self._work = trio.Event()
        self._news = trio.Event()
        self._set_aside = trio.Event()

    @property
    def drains(self) -> dict[str, Drain]:
        """By node."""
        return self._drains.by_node

    # --- what others want

    def enqueue_lost(self, session_id: int, trigger: Trigger) -> None:
        """The session's node is gone: move it before those that can wait."""
        self._enqueue(Waiting(session_id, Urgency.LOST, trigger))

    def enqueue_leaving(self, session_id: int) -> None:
        """The session sits on a node that is being emptied, or everybody leaves."""
        self._enqueue(Waiting(session_id, Urgency.LEAVING, Trigger.DRAIN))

    def look_at(self, relayed: Relayed) -> None:
        """A client has just logged in, and is to be on its user's own node."""
        full_jid, guard = relayed.session.full_jid, self._registry.guard
        if full_jid is None or not self._is_misplaced(relayed.session):
            return
        basis = self._cluster.placement_basis()
        if self._registry.has_returned(relayed.id):
            guard.landed_wrong(full_jid, basis)
        elif guard.lets(full_jid, basis, self._clock()):
            self._enqueue(Waiting(relayed.id, Urgency.WRONG, Trigger.WRONG_NODE))

    def _enqueue(self, waiting: Waiting) -> None:
        if self._queues.put(waiting):
            self._wake()

    def _wake(self) -> None:
        self._work.set()
        self._pace.queued(
            lost=self._queues.length(Urgency.LOST),
            leaving=self._queues.leaving,
            misplaced=self._queues.misplaced,
        )

    @property
    def rate(self) -> float:
        """In clients a second."""
        return self.tempo.now

    def follow_rebalance(self, order: Rebalancing | None) -> None:
        """That one goes on, as whoever keeps it says; ``None``: none."""
        self._planner.follow(order)

    def rebalance_counts(self) -> RebalanceCounts:
        """How far it is here."""
        announced = sum(order.trigger is Trigger.REBALANCE for _, order in self._announced.values())
        return self._planner.counts(announced)

    def move(self, address: str, node: str) -> int:
        """Send the clients of that user (a JID; with a resource: that client) to the node, at once; how many.

        Raises :class:`~cxfr_proxy.cluster.members.UnknownNode`.
        """
        target = self._cluster.get(node)
        asked = 0
        for relayed in self._registry:
            session = relayed.session
            movable = session.node != node and session.state is State.BOUND and relayed.id not in self._announced
            if movable and _is_of(session, address):
                if not self._waits_to_settle(relayed, Waiting(relayed.id, Urgency.WRONG, Trigger.MOVE, node)):
                    self._send(relayed, self._order_to(relayed, Trigger.MOVE, target))
                asked += 1
        return asked

    @property
    def share(self) -> float:
        """Which part of the rate is this proxy's."""
        return self.tempo.share

    def set_share(self, share: float) -> None:
        self.tempo.set_share(share)

    @property
    def to_move(self) -> int:
        """Sessions in the queues."""
        return self._queues.length(Urgency.LOST) + self._queues.leaving + self._queues.misplaced

    def drain(
        self, node: str, *, grace: float | None = None, deadline: float | None = None, rate: float | None = None
    ) -> None:
        """Empty a node; one that is being emptied, or was aborted, goes on.

        ``grace`` and ``deadline`` in seconds from now: before the one nobody is moved, after the other the rest is
        closed without being asked. ``rate`` replaces the usual one until this drain is over. Raises
        :class:`~cxfr_proxy.cluster.members.UnknownNode`.
        """
        self._cluster.get(node)
        self._look_at(self._drains.begin(node, grace=grace, deadline=deadline, rate=rate))

    def follow(self, node: str, stage: Stage) -> None:
        """Empty a node as whoever keeps the drain has it."""
        self._look_at(self._drains.follow(node, stage))

    def adopt(self, node: str, schedule: Schedule | None, rate: float | None) -> None:
        """As :meth:`drain`, or without ``schedule`` as :meth:`abort`, because another proxy was told so."""
        self._cluster.get(node)
        self._look_at(self._drains.adopt(node, schedule, rate))

    def abort(self, node: str) -> None:
        """Stop emptying it; who is there stays there. Clients that were asked already may still go, and if they don't,
        they are told nothing more."""
        self._drains.abort(node)

    def undrain(self, node: str) -> None:
        """Leave the rest where they are, as :meth:`abort` does."""
        if node in self.drains:
            self._drains.end(node)
            self._recall(node)

    def follow_health(self, node: Node) -> None:
        """As checks see that node, its sessions leave or stay."""
        if node.session_outlook is SessionOutlook.GOOD:
            self.node_up(node.name)
        else:
            self.node_down(node.name)

    def node_down(self, node: str) -> None:
        """Checks are sure that it is down. Its sessions go before those that only drain, if a node can take them."""
        if self._on_node_down is OnNodeDown.KEEP:
            return
        self.down.add(node)
        for session in order_of_leaving(self._registry.snapshot(self._clock(), node)):
            relayed = self._registry.get(session.session_id)
            if self._on_node_down is OnNodeDown.TRANSFER:
                self._enqueue(Waiting(session.session_id, Urgency.DOWN, Trigger.NODE_DOWN))
            elif (
                relayed is not None
                and relayed.session.rung is None
                and not self._waits_to_settle(relayed, Waiting(relayed.id, Urgency.DOWN, Trigger.NODE_DOWN))
            ):
                self._move_from_down(relayed)

    def node_up(self, node: str) -> None:
        """It is up again: who has not been told to move stays."""
        self.down.discard(node)

    def leave(self, trigger: Trigger) -> None:
        """All sessions of this process are to reconnect, whatever their drains' stage; placement finds a node for them
        then."""
        self._everybody = trigger
        for session in order_of_leaving(self._registry.snapshot(self._clock())):
            self.enqueue_leaving(session.session_id)

    def look_again(self) -> None:
        """Something about the nodes has changed: those that had nowhere to go may have now. It is seen to soon, and
        once for many changes: each time all sessions of the nodes that are leaving are looked at."""
        self._news.set()

    async def _look_again_when_asked(self) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            began = time.thread_time()
            self._look_at_the_leaving()
            await trio.sleep((time.thread_time() - began) / _LOOKING_SHARE)

    def _look_at_the_leaving(self) -> None:
        for drain in self.drains.values():
            drain.waiting_reason = None
            self._look_at(drain)
        for node in tuple(self.down):
            self.node_down(node)

    def left(self, node: str) -> int:
        """Sessions still on it."""
        return self._registry.of_node(node).sessions

    def awaited(self, node: str) -> int:
        """Clients that were cut from it and may still come for their sessions, which other nodes fetch from it."""
        return self._registry.awaited(self._clock())[node]

    # --- the one task

    async def run(self) -> None:
        """Move until cancelled."""
        async with trio.open_nursery() as nursery:
            start(nursery, Task.DRAINS, self._drains.watch)
            start(nursery, Task.REBALANCE, self._planner.run)
            start(nursery, Task.LOOKING, self._look_again_when_asked)
            start(nursery, Task.MOVER, self._bring_back_when_settled)
            await keep_going(Task.MOVER, self._move_all)

    async def _move_all(self) -> None:
        while True:
            await self._wait_for_work()
            await self._pace.wait()
            if self._move_first():
                self._pace.spend()

    async def _wait_for_work(self) -> None:
        while not self._queues:
            self._pace.rest()
            self._work = trio.Event()
            await self._work.wait()

    def _move_first(self) -> bool:
        """Take the first session out of the queues; whether it was given an order."""
        waiting = self._queues.take()
        relayed = self._registry.get(waiting.session_id) if waiting is not None else None
        if waiting is None or relayed is None or relayed.session.rung is not None:
            return False
        if self._waits_to_settle(relayed, waiting):
            return False
        match waiting.urgency:
            case Urgency.LOST:
                relayed.transfer(self.order_for(relayed, waiting.trigger))
                return True
            case Urgency.DOWN:
                return self._move_from_down(relayed)
            case Urgency.LEAVING if relayed.session.inactive:
                self._queues.put(replace(waiting, urgency=Urgency.ASLEEP))
                return False
            case Urgency.LEAVING | Urgency.ASLEEP:
                return self._is_leaving(relayed) and self._move_leaving(relayed)
            case Urgency.WRONG | Urgency.REBALANCED:
                return self._may_be_placed(relayed) and self._place(relayed, waiting)

    def _waits_to_settle(self, relayed: Relayed, waiting: Waiting) -> bool:
        """Whether it is too young to be moved where nodes share sessions; then it has its turn when it is not."""
        session = relayed.session
        source = self._cluster.get(session.node) if session.node in self._cluster else None
        if source is None or source.spec.resume is not Resume.SHARED or self._everybody is not None:
            return False
        if source.session_outlook is SessionOutlook.DEAD or (session.node_lost and source.health is Health.DOWN):
            return False
        bound = self._registry.bound_lately(relayed.id)
        if bound is None or self._clock() >= bound + SETTLED_SECONDS:
            return False
        self._queues.set_aside(waiting, bound + SETTLED_SECONDS)
        self._set_aside.set()
        return True

    async def _bring_back_when_settled(self) -> None:
        while True:
            due = self._queues.next_due
            self._set_aside = trio.Event()
            with trio.move_on_at(due if due is not None else math.inf) as limit:
                await self._set_aside.wait()
            if limit.cancelled_caught:
                for waiting in self._queues.take_due(self._clock()):
                    self._enqueue(waiting)

    def _is_leaving(self, relayed: Relayed) -> bool:
        session = relayed.session
        # A node that is not listed any more was forgotten when it was empty: this one was dialled before.
        leaving = session.node not in self._cluster or self._cluster.get(session.node).leaving
        leaving = leaving or session.node in self.down or self._everybody is not None
        return leaving and not session.node_lost

    def _move_leaving(self, relayed: Relayed) -> bool:
        if self._everybody is not None:
            relayed.transfer(Order(self._everybody))
            return True
        if relayed.session.node in self.down:
            return self._move_from_down(relayed)
        drain = self.drains.get(relayed.session.node)
        stage = drain.stage if drain is not None else Stage.ALL
        if not stage.moves:
            return False
        if drain is not None and stage is Stage.AWAKE and relayed.session.inactive:
            self._drains.waits(drain, "those that are left are inactive, and not asked before half of the deadline")
            return False
        # One that was bound behind the deadline has no more time than the others.
        order = self.order_for(relayed, Trigger.DRAIN, hurried=stage is Stage.REST)
        if order.target is None:
            if drain is not None:
                self._drains.waits(drain, "no other node is ready to take its clients")
            return False
        relayed.transfer(order)
        return True

    def _move_from_down(self, relayed: Relayed) -> bool:
        if relayed.session.node not in self.down or relayed.session.node_lost:
            return False
        order = self.order_for(relayed, Trigger.NODE_DOWN)
        if order.target is None:
            return False
        if self._on_node_down is OnNodeDown.CLOSE:
            order = replace(order, hurried=True, server=None)
        relayed.transfer(order)
        return True

    def _may_be_placed(self, relayed: Relayed) -> bool:
        session = relayed.session
        stays = self._everybody is None and session.node in self._cluster and self._cluster.get(session.node).usable
        movable = session.state is State.BOUND and not session.node_lost and not session.stays_down
        return stays and movable and relayed.id not in self._announced

    def _place(self, relayed: Relayed, waiting: Waiting) -> bool:
        if waiting.trigger is Trigger.MOVE:
            listed = waiting.target is not None and waiting.target in self._cluster
            target = self._cluster.get(waiting.target) if waiting.target is not None and listed else None
        else:
            target = self._place_of(relayed.session, waiting.target)
        if target is None or target.name == relayed.session.node:
            return False
        held_until = self._registry.held_until(relayed.id, self._clock())
        if held_until is not None and waiting.trigger is not Trigger.MOVE:
            if waiting.urgency is Urgency.REBALANCED:
                self._planner.hold(relayed.id, held_until)
            return False
        self._send(relayed, self._order_to(relayed, waiting.trigger, target))
        return True

    def _send(self, relayed: Relayed, order: Order) -> None:
        """To its place. Whichever process the client comes back to has to know before it does."""
        full_jid = relayed.session.full_jid
        assert full_jid is not None, "without it nobody knows the place"
        assert order.place is not None
        self._registry.about_to_be_asked(full_jid, relayed.client_address, order.place, self._clock())
        self._announced[relayed.id] = relayed, order
        if self._announcer is not None:
            self._announcer.announce(relayed, order)
        else:
            self.announced(relayed.id)

    def announced(self, session_id: int) -> None:
        """All processes were told where that one's client is to go: tell the client."""
        relayed, order = self._announced.pop(session_id, (None, None))
        if relayed is None or order is None:
            return
        if self._registry.get(session_id) is relayed and relayed.session.state is State.BOUND:
            relayed.transfer(order)
            return
        full_jid = relayed.session.full_jid
        if full_jid is not None and order.place is not None:
            self._registry.stayed(full_jid, relayed.client_address, order.place)
        if self._announcer is not None:
            self._announcer.withdraw(relayed, order)
        self._changed()

    def _place_of(self, session: Session, planned: str | None) -> Node | None:
        """Where it belongs by now; ``None``: where it is. ``planned``: where it was to go to even the load."""
        user = user_of(session)
        if user is None:
            return None
        home = self._placement.home(user, session.domain, self._registry.sessions_by_node())
        if home is not None or planned is None or not self._placement.floats(user, session.domain):
            return home
        source = self._cluster.get(session.node)
        return next(
            (n for n in self._placement.usable(session.domain) if n.name == planned and self._evens(source, n)), None
        )

    def _evens(self, source: Node, target: Node) -> bool:
        """Whether one session less here and one more there makes the load no less even."""
        sessions = self._registry.sessions_by_node()
        return (sessions[source.name] - 1) * target.weight >= sessions.get(target.name, 0) * source.weight

    def _is_misplaced(self, session: Session) -> bool:
        user = user_of(session)
        if user is None:
            return False
        home = self._placement.home(user, session.domain, self._registry.sessions_by_node())
        return home is not None and home.name != session.node

    def order_for(self, relayed: Relayed, trigger: Trigger, *, hurried: bool = False) -> Order:
        """Where that session goes, and what its client may be told."""
        session = relayed.session
        ranked = self._placement.rank(
            user_of(session),
            session.domain,
            self._registry.sessions_by_node(),
            exclude=(session.node,),
            up_only=trigger in (Trigger.DRAIN, Trigger.NODE_DOWN),  # nobody is moved onto a node that is down
        )
        source = self._cluster.get(session.node) if session.node in self._cluster else None
        if source is not None:
            ranked = [node for node in rank_to_resume(ranked, source) if node is not source]
        if ranked:
            return self._order_to(relayed, trigger, ranked[0], hurried=hurried)
        return Order(
            trigger, hurried=hurried, node_dead=source is not None and source.session_outlook is SessionOutlook.DEAD
        )

    def _order_to(self, relayed: Relayed, trigger: Trigger, node: Node, *, hurried: bool = False) -> Order:
        session, target = relayed.session, node.spec
        source = self._cluster.get(session.node) if session.node in self._cluster else None
        dead = source is not None and source.session_outlook is SessionOutlook.DEAD
        return Order(
            trigger,
            target=target.name,
            server=self._address(target, user_of(session)),
            hurried=hurried,
            resumes=source is not None and source.spec.resume is target.resume is Resume.SHARED and not dead,
            node_dead=dead,
        )

    def _address(self, target: NodeSpec, user: str | None) -> Server | None:
        """What that user's client is told of the node; ``None``: to come back to where it was.

        There may be another proxy at that address, which knows better and sends it back. So an address is told once
        in a while, and to those only who would be known again.
        """
        if target.public is None or user is None or self._registry.redirected_lately(user, self._clock()):
            return None
        return Server(target.public.host, target.public.port)

    # --- drains go on, and end

    def _look_at(self, drain: Drain) -> None:
        """Queue whoever is still there; their turn shows who of them is moved."""
        if drain.stage.moves:
            for session in order_of_leaving(self._registry.snapshot(self._clock(), drain.node)):
                self.enqueue_leaving(session.session_id)

    def _advance(self, drain: Drain) -> None:
        if drain.stage is Stage.REST:
            self._close_the_rest(drain.node)
        elif drain.stage is Stage.ABORTED:
            self._recall(drain.node)
        else:
            self._look_at(drain)

    def _close_the_rest(self, node: str) -> None:
        for relayed in self._registry.on_node(node):
            if self._waits_to_settle(relayed, Waiting(relayed.id, Urgency.LEAVING, Trigger.DRAIN)):
                continue
            order = self.order_for(relayed, Trigger.DRAIN, hurried=True)
            if order.target is not None:  # else they are better off where they are
                relayed.transfer(order)

    def _recall(self, node: str) -> None:
        for relayed in self._registry.on_node(node):
            transfer = relayed.session.transfer_under_way
            if transfer is not None and transfer.order.trigger is Trigger.DRAIN:
                relayed.recall()

    def _stop_logins(self, node: str) -> None:
        """Who has not logged in by now has no session to lose, and would keep the node from being empty."""
        now = self._clock()
        for relayed in self._registry.logging_in(node):
            if relayed.session.state is State.NEGOTIATING and now - relayed.opened > LOGIN_SECONDS:
                relayed.stop()


def _is_of(session: Session, address: str) -> bool:
    """Whether that is its client's JID, or its user's, however they are written."""
    if session.full_jid is None:
        return False
    user, _, resource = address.partition("/")
    same_user = user_key(jid.bare(session.full_jid)) == user_key(user)
    return same_user and (not resource or session.full_jid.partition("/")[2] == resource)
