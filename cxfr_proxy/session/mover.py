"""Carries out moves at their pace.

Whoever wants a session moved puts it in the queue; the mover's one task waits until there is a token, and only then
looks who is first, whether that one is still to be moved, and where to: minutes may have gone by since it was queued.
Who turns out to stay takes no token, so nobody waits for it.

Three queues. Sessions whose node is gone go first: their clients are without service, the others only will be. Those
whose client is not in use (XEP-0352) go last, whenever it fell asleep. All draw on the same bucket, since what the pace
protects is the node that the clients log in to next.

Sessions of a node that checks find down (:meth:`Mover.node_down`) stand at the head of the second queue, for as long as
it is down.

A session queued for a drain stays where it is if no other node can take it, or if its drain is not at the stage for it
(:mod:`.drain_stages`). It is looked at again when something about the nodes changes (:meth:`Mover.look_again`), at the
next stage, and when its client becomes active. One whose node is gone can't stay: it is told to reconnect, and finds
what there is then.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import trio

from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.nodes import NodeSpec, Outlook, Resume
from cxfr_proxy.cluster.placement import Placement, rank_to_resume
from cxfr_proxy.cluster.plan import order_of_leaving
from cxfr_proxy.config import OnNodeDown
from cxfr_proxy.session.drain_stages import Stage
from cxfr_proxy.session.ladder import Order, Trigger
from cxfr_proxy.session.mover_drains import Drain, Drains, OwnPace, Pace
from cxfr_proxy.session.registry import Registry, Relayed, user_of
from cxfr_proxy.session.state import State
from cxfr_proxy.xmpp.connection_transfer import Server

LOGIN_SECONDS: Final = 10.0
"""How long a login on a node that is being emptied may have taken: people are asked for passwords before."""


class Mover:
    """See the module. ``transfer_rate`` in clients a second; ``clock`` is the relay's; ``pace`` is a bucket of the
    mover's own unless one is given; ``report`` as for :class:`~.mover_drains.Drains`."""

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
    ) -> None:
        self._on_node_down = on_node_down
        self._cluster = cluster
        self._registry = registry
        self._placement = placement
        self._clock = clock
        self._pace = pace if pace is not None else OwnPace(transfer_rate, clock)
        self._drains = Drains(
            self._pace,
            transfer_rate,
            counts_of=registry.of_node,
            awaited=self.awaited,
            advanced=self._advance,
            look_after=self._stop_logins,
            report=report,
            clock=clock,
        )
        self._lost: deque[tuple[int, Trigger]] = deque()
        self._leaving: deque[int] = deque()
        self._queued: set[int] = set()  # what is in it
        self._asleep: OrderedDict[int, None] = OrderedDict()
        self.down: set[str] = set()
        """Nodes whose sessions leave because checks find them down."""
        self._everybody: Trigger | None = None  # why all sessions leave, whatever node they are on
        self._work = trio.Event()

    @property
    def drains(self) -> dict[str, Drain]:
        """By node."""
        return self._drains.by_node

    # --- what others want

    def enqueue_lost(self, session_id: int, trigger: Trigger) -> None:
        """The session's node is gone: move it before those that can wait."""
        self._lost.append((session_id, trigger))
        self._wake()

    def enqueue_leaving(self, session_id: int) -> None:
        """The session sits on a node that is being emptied, or everybody leaves."""
        if session_id not in self._queued:
            self._queued.add(session_id)
            self._leaving.append(session_id)
            self._wake()

    def _wake(self) -> None:
        self._work.set()
        self._pace.queued(lost=len(self._lost), leaving=len(self._leaving) + len(self._asleep))

    @property
    def rate(self) -> float:
        """In clients a second."""
        return self._drains.rate

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
        if node.outlook is Outlook.GOOD:
            self.node_up(node.name)
        else:
            self.node_down(node.name)

    def node_down(self, node: str) -> None:
        """Checks are sure that it is down. Its sessions go before those that only drain, if a node can take them."""
        if self._on_node_down is OnNodeDown.KEEP:
            return
        self.down.add(node)
        there = [each for each in self._registry.snapshot(self._clock()) if each.node == node]
        if self._on_node_down is OnNodeDown.CLOSE:
            for session in there:
                relayed = self._registry.get(session.session_id)
                if relayed is not None and self._is_leaving(relayed):
                    self._move_from_down(relayed)
            return
        new = [each.session_id for each in order_of_leaving(there) if each.session_id not in self._queued]
        self._queued.update(new)
        self._leaving.extendleft(reversed(new))
        self._wake()

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
        """Something about the nodes has changed: those that had nowhere to go may have now."""
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
            nursery.start_soon(self._drains.watch)
            while True:
                await self._wait_for_work()
                await self._pace.wait()
                if self._move_first():
                    self._pace.spend()

    async def _wait_for_work(self) -> None:
        while not (self._lost or self._leaving or self._asleep):
            self._pace.rest()
            self._work = trio.Event()
            await self._work.wait()

    def _move_first(self) -> bool:
        """Take the first session out of the queues; whether it was given an order."""
        if self._lost:
            session_id, trigger = self._lost.popleft()
            relayed = self._registry.get(session_id)
            if relayed is None or relayed.session.rung is not None:
                return False
            relayed.transfer(self.order_for(relayed, trigger))
            return True
        relayed = self._first_leaving()
        return relayed is not None and self._is_leaving(relayed) and self._move_leaving(relayed)

    def _first_leaving(self) -> Relayed | None:
        """The first of those that can wait; ``None`` if it has left, or falls behind the others since it sleeps."""
        if not self._leaving:
            return self._registry.get(self._asleep.popitem(last=False)[0])
        session_id = self._leaving.popleft()
        self._queued.discard(session_id)
        relayed = self._registry.get(session_id)
        if relayed is None or not relayed.session.inactive:
            return relayed
        self._asleep[session_id] = None
        return None

    def _is_leaving(self, relayed: Relayed) -> bool:
        session = relayed.session
        # A node that is not listed any more was forgotten when it was empty: this one was dialled before.
        leaving = session.node not in self._cluster or self._cluster.get(session.node).leaving
        leaving = leaving or session.node in self.down or self._everybody is not None
        return leaving and not session.node_lost and session.rung is None

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
        order = self.order_for(relayed, Trigger.NODE_DOWN)
        if order.target is None:
            return False
        if self._on_node_down is OnNodeDown.CLOSE:
            order = replace(order, hurried=True, server=None)
        relayed.transfer(order)
        return True

    def order_for(self, relayed: Relayed, trigger: Trigger, *, hurried: bool = False) -> Order:
        """Where that session goes, and what its client may be told."""
        session = relayed.session
        user = user_of(session)
        ranked = self._placement.rank(
            user,
            session.domain,
            self._registry.sessions_by_node(),
            exclude=(session.node,),
            up_only=trigger in (Trigger.DRAIN, Trigger.NODE_DOWN),  # nobody is moved onto a node that is down
        )
        source = self._cluster.get(session.node) if session.node in self._cluster else None
        if source is not None:
            ranked = [node for node in rank_to_resume(ranked, source) if node is not source]
        dead = source is not None and source.outlook is Outlook.DEAD
        if not ranked:
            return Order(trigger, hurried=hurried, node_dead=dead)
        target = ranked[0].spec
        return Order(
            trigger,
            target=target.name,
            server=self._address(target, user),
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
            there = (each for each in self._registry.snapshot(self._clock()) if each.node == drain.node)
            for session in order_of_leaving(there):
                self.enqueue_leaving(session.session_id)

    def _advance(self, drain: Drain) -> None:
        if drain.stage is Stage.REST:
            self._close_the_rest(drain.node)
        elif drain.stage is Stage.ABORTED:
            self._recall(drain.node)
        else:
            self._look_at(drain)

    def _close_the_rest(self, node: str) -> None:
        for relayed in self._registry:
            if relayed.session.node == node:
                order = self.order_for(relayed, Trigger.DRAIN, hurried=True)
                if order.target is not None:  # else they are better off where they are
                    relayed.transfer(order)

    def _recall(self, node: str) -> None:
        for relayed in self._registry:
            transfer = relayed.session.transfer_under_way
            if relayed.session.node == node and transfer is not None and transfer.order.trigger is Trigger.DRAIN:
                relayed.recall()

    def _stop_logins(self, node: str) -> None:
        """Who has not logged in by now has no session to lose, and would keep the node from being empty."""
        now = self._clock()
        for relayed in self._registry.logging_in():
            session = relayed.session
            negotiating = session.state is State.NEGOTIATING
            if session.node == node and negotiating and now - relayed.opened > LOGIN_SECONDS:
                relayed.stop()
