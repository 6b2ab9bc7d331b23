"""Carries out moves at their pace.

Whoever wants a session moved puts it in the queue; the mover's one task waits until there is a token, and only then
looks who is first, whether that one is still to be moved, and where to: minutes may have gone by since it was queued.
Who turns out to stay takes no token, so nobody waits for it.

Two queues. Sessions whose node is gone go first: their clients are without service, the others only will be. Both draw
on the same bucket, since what the pace protects is the node that the clients log in to next.

A session queued for a drain stays where it is if no other node can take it, or if its drain is not at the stage for it
(:mod:`.drain_stages`). It is looked at again when something about the nodes changes (:meth:`Mover.look_again`), at the
next stage, and when its client becomes active. One whose node is gone can't stay: it is told to reconnect, and finds
what there is then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import Resume
from cxfr_proxy.cluster.placement import Placement, rank_to_resume
from cxfr_proxy.cluster.plan import order_of_leaving
from cxfr_proxy.session.drain_stages import Schedule, Stage
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
        clock: Callable[[], float] = trio.current_time,
        pace: Pace | None = None,
        report: Callable[[str, Drain], None] | None = None,
    ) -> None:
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
        self._queued: set[int] = set()
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
        self._pace.queued(lost=len(self._lost), leaving=len(self._leaving))

    @property
    def rate(self) -> float:
        """In clients a second."""
        return self._drains.rate

    @property
    def share(self) -> float:
        """Which part of the rate is this proxy's."""
        return self._drains.share

    def set_share(self, share: float) -> None:
        self._drains.set_share(share)

    @property
    def to_move(self) -> int:
        """Sessions in the queues."""
        return len(self._lost) + len(self._leaving)

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
        """Stop emptying it; who is there stays there. Clients that were asked already may still go."""
        self._drains.abort(node)

    def undrain(self, node: str) -> None:
        """Leave the rest where they are. Clients that were asked already may still go."""
        self._drains.end(node)

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
        while not self._lost and not self._leaving:
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
        session_id = self._leaving.popleft()
        self._queued.discard(session_id)
        relayed = self._registry.get(session_id)
        return relayed is not None and self._is_leaving(relayed) and self._move_leaving(relayed)

    def _is_leaving(self, relayed: Relayed) -> bool:
        session = relayed.session
        # A node that is not listed any more was forgotten when it was empty: this one was dialled before.
        leaving = session.node not in self._cluster or self._cluster.get(session.node).leaving
        return (leaving or self._everybody is not None) and not session.node_lost and session.rung is None

    def _move_leaving(self, relayed: Relayed) -> bool:
        if self._everybody is not None:
            relayed.transfer(Order(self._everybody))
            return True
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

    def order_for(self, relayed: Relayed, trigger: Trigger, *, hurried: bool = False) -> Order:
        """Where that session goes, and what its client may be told."""
        session = relayed.session
        user = user_of(session)
        ranked = self._placement.rank(
            user,
            session.domain,
            self._registry.sessions_by_node(),
            exclude=(session.node,),
            up_only=trigger is Trigger.DRAIN,  # nobody is moved onto a node that is down
        )
        source = self._cluster.get(session.node) if session.node in self._cluster else None
        if source is not None:
            ranked = [node for node in rank_to_resume(ranked, source) if node is not source]
        if not ranked:
            return Order(trigger, hurried=hurried)
        target = ranked[0].spec
        return Order(
            trigger,
            target=target.name,
            server=Server(target.public.host, target.public.port) if target.public is not None else None,
            may_redirect=not self._registry.redirected_lately(user, self._clock()),
            hurried=hurried,
            resumes=source is not None and source.spec.resume is target.resume is Resume.SHARED,
        )

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
        else:
            self._look_at(drain)

    def _close_the_rest(self, node: str) -> None:
        for relayed in self._registry:
            if relayed.session.node == node:
                order = self.order_for(relayed, Trigger.DRAIN, hurried=True)
                if order.target is not None:  # else they are better off where they are
                    relayed.transfer(order)

    def _stop_logins(self, node: str) -> None:
        """Who has not logged in by now has no session to lose, and would keep the node from being empty."""
        now = self._clock()
        for relayed in self._registry.logging_in():
            session = relayed.session
            negotiating = session.state is State.NEGOTIATING
            if session.node == node and negotiating and now - relayed.opened > LOGIN_SECONDS:
                relayed.stop()
