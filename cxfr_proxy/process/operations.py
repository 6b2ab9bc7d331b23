"""What an operator can do with the running proxy: :class:`cxfr_proxy.admin.commands.Operations`, carried out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Final, Protocol

import trio

from cxfr_proxy.admin.rows import (
    DrainPlan,
    DrainProgress,
    NodeRow,
    PinRow,
    PlannedMove,
    PlannedTarget,
    ProxyRow,
    RebalancePlan,
    RebalanceProgress,
    RestartProgress,
    Returning,
    SessionRow,
    SourceRow,
    TransferRow,
    WorkerRow,
)
from cxfr_proxy.cluster.assigned import Pins
from cxfr_proxy.cluster.members import CheckResult, Cluster, Node
from cxfr_proxy.cluster.nodes import Health, Wish
from cxfr_proxy.cluster.placement import Placement
from cxfr_proxy.cluster.plan import Forecast, plan_drain
from cxfr_proxy.cluster.rebalance import Forecast as RebalanceForecast
from cxfr_proxy.config.table import Timeouts
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.process.announce import say_of_held
from cxfr_proxy.process.automatic import Automatic
from cxfr_proxy.process.messages import Files
from cxfr_proxy.process.nodelist import Drainer
from cxfr_proxy.process.restart import Restarts
from cxfr_proxy.process.sharing import Sharing
from cxfr_proxy.session.client_software import name_of
from cxfr_proxy.spellings import domain_key, user_key
from cxfr_proxy.transfers.drain_stages import Stage
from cxfr_proxy.transfers.drains import Drain
from cxfr_proxy.transfers.planner import planned_moves
from cxfr_proxy.transfers.rebalances import Rebalance, Rebalances
from cxfr_proxy.transfers.registry import NodeCounts, Registry, Relayed, TransferRecord
from cxfr_proxy.transfers.statistics import Tally, Totals
from cxfr_proxy.xmpp import jid

_PROGRESS_SECONDS: Final = 0.2

_log = logging.getLogger(__name__)


COUNTED_AT_A_TIME: Final = 1000
"""Sessions looked at between two checkpoints: some tenths of a millisecond."""
ROWS_AT_A_TIME: Final = 500
"""Of nodes, between two checkpoints: some milliseconds."""
PLANNED_AT_A_TIME: Final = 100
"""Moves planned between two checkpoints: some milliseconds, in which no session is served."""


class Sessions(Protocol):
    """Where the sessions are: in this process, or in workers."""

    @property
    def sessions(self) -> int:
        """How many there are."""

    def of_node(self, name: str) -> NodeCounts:
        """What is known of it here."""

    async def refresh(self) -> None:
        """Let :meth:`of_node` know what there is now."""

    @property
    def tally(self) -> Tally:
        """All transfers there were."""

    def totals(self) -> Totals:
        """What else has happened, as far as it is known here."""

    def omissions(self) -> list[str]:
        """As :meth:`~cxfr_proxy.admin.commands.Operations.omissions`."""

    async def states(self) -> dict[str, int]:
        """How many sessions are in which state; and :meth:`refresh`."""

    async def session_rows(self) -> list[SessionRow]: ...

    async def transfer_rows(self) -> list[TransferRow]: ...

    async def plan(self, node: str) -> Forecast: ...

    async def plan_rebalance(self, max_share: float | None) -> RebalanceForecast: ...

    async def move(self, jid: str, node: str) -> int:
        """As :meth:`~cxfr_proxy.transfers.mover.Mover.move`."""

    def worker_rows(self) -> list[WorkerRow]: ...

    async def take_files(self, files: Files) -> list[str]:
        """Let other processes use what was read; errors, if there were some."""

    def tell_files(self, files: Files) -> None:
        """The same without waiting: errors go to the log."""


ONE_PROCESS: Final = "with --workers 1 everything is one process, which has no worker to replace"


class ProxyOperations:
    """``domains`` are those that the proxy serves; none: any. ``automatic`` is ``None`` where nothing is rebalanced by
    itself. ``reloader`` reads nodes, user map and certificates again and says in a sentence what has changed;
    ``restarts`` is ``None`` where there are no workers."""

    def __init__(
        self,
        cluster: Cluster,
        sessions: Sessions,
        drainer: Drainer,
        rebalances: Rebalances,
        timeouts: Timeouts,
        reloader: Callable[[], Awaitable[str]],
        *,
        sharing: Sharing,
        pins: Pins,
        domains: Iterable[str] = (),
        automatic: Automatic | None = None,
        restarts: Restarts | None = None,
    ) -> None:
        self._cluster = cluster
        self._sessions = sessions
        self._drainer = drainer
        self._rebalances = rebalances
        self._reloader = reloader
        self._sharing = sharing
        self._pins = pins
        self._domains = tuple(map(domain_key, domains))
        self._automatic = automatic
        self._restarts = restarts
        # A client that is closed at the deadline may take that long to be gone, and so may an unfinished login.
        self._closing_seconds = timeouts.node_close_timeout + timeouts.see_other_host_timeout + 1.0

    def drain(
        self,
        node: str,
        *,
        grace: float | None = None,
        deadline: float | None = None,
        rate: float | None = None,
        force: bool = False,
    ) -> None:
        listed = self._cluster.get(node)
        _check_times(grace, deadline)
        refused = self.refused_without(node)
        if refused is not None and not force:
            raise ConfigError(
                f"nothing is done: while '{node}' is drained {refused} is refused, for no other node is ready and up;"
                " --force drains it all the same"
            )
        listed.set_wish(Wish.DRAIN)
        self._drainer.drain(node, grace=grace, deadline=deadline, rate=rate)
        self._sharing.tell(node)

    def refused_without(self, node: str) -> str | None:
        unserved = self._cluster.unserved_without(node, self._domains)
        if unserved is None:
            return None
        return f"every login for {', '.join(unserved)}" if unserved else "every login"

    async def plan_drain(
        self, node: str, *, grace: float | None = None, deadline: float | None = None, rate: float | None = None
    ) -> DrainPlan:
        self._cluster.get(node)
        _check_times(grace, deadline)
        plan = await self._sessions.plan(node)
        rate = (rate if rate is not None else self._drainer.rate) * self._drainer.share
        targets = [
            PlannedTarget(each.name, plan.targets[each.name]) for each in self._cluster if each.name in plan.targets
        ]
        if plan.unplaced:
            targets.append(PlannedTarget(None, plan.unplaced))
        return DrainPlan(
            node=node,
            sessions=plan.sessions,
            inactive=plan.inactive,
            targets=targets,
            rate=rate,
            seconds=plan.seconds(rate, grace=grace, deadline=deadline),
            stay_down=plan.stay_down,
            refuses_logins=self.refused_without(node),
        )

    def abort(self, node: str) -> None:
        self._cluster.get(node)
        if node not in self._drainer.drains:
            raise ConfigError(f"node '{node}' is not being drained")
        self._drainer.abort(node)
        self._sharing.tell(node)

    def undrain(self, node: str, *, rebalance: bool = True) -> None:
        listed = self._cluster.get(node)
        if listed.removed:
            raise ConfigError(f"node '{node}' is no longer listed; put it back first")
        listed.set_wish(Wish.READY)
        self._drainer.undrain(node)
        self._drainer.look_again()
        if self._automatic is not None:
            self._automatic.excuse(node, excused=not rebalance)
        self._sharing.tell(node, rebalance=rebalance)
        emit(_log, "undrain", node=node, sessions=self._drainer.left(node), rebalance=None if rebalance else False)

    async def plan_return(self, node: str) -> Returning:
        listed, automatic = self._cluster.get(node), self._automatic
        plan = await self._sessions.plan_rebalance(None)
        return Returning(
            node=node,
            up=listed.health is Health.UP,
            to_move=plan.sessions,
            held=plan.held,
            begins_in=automatic.seconds_until_due() if automatic is not None else None,
        )

    def caveat(self) -> str | None:
        return self._sharing.caveat

    async def wait_drained(self, node: str) -> AsyncGenerator[DrainProgress, None]:
        self._cluster.get(node)
        drain = self._drainer.drains.get(node)
        if drain is None:
            raise ConfigError(f"node '{node}' is not being drained")
        while True:
            await self._sessions.refresh()
            progress = self._progress(drain)
            yield progress
            if progress.finished:
                return
            await trio.sleep(_PROGRESS_SECONDS)

    def _progress(self, drain: Drain) -> DrainProgress:
        counts = self._sessions.of_node(drain.node)
        moved = counts.moved - drain.moved_before
        awaited, elsewhere = self._drainer.awaited(drain.node), self._sharing.left_elsewhere(drain.node)
        left = self._drainer.left(drain.node) + (elsewhere or 0)
        overdue = drain.deadline is not None and trio.current_time() > drain.deadline + self._closing_seconds
        undrained = self._drainer.drains.get(drain.node) is not drain
        aborted = drain.stage is Stage.ABORTED
        return DrainProgress(
            node=drain.node,
            total=max(drain.total, moved + left),
            asked=counts.asked - drain.asked_before,
            moved=moved,
            refused=counts.refused - drain.refused_before,
            silent=counts.silent - drain.silent_before,
            failed=counts.failed - drain.failed_before,
            returned=counts.returned - drain.returned_before,
            left=left,
            finished=not (left or awaited or elsewhere is None) or overdue or undrained or aborted,
            waiting_reason="the drain was called off" if undrained else drain.reason or _not_all(elsewhere),
        )

    def pin(self, user: str, node: str) -> None:
        listed = self._cluster.get(node)
        domain = jid.domain(user)
        if not listed.spec.serves(domain_key(domain)):
            raise ConfigError(f"node '{node}' does not serve {domain}: its domain= is {','.join(listed.spec.domain)}")
        self._pins.pin(user, node)
        self._sharing.tell_pin(user, node)

    def unpin(self, user: str) -> None:
        if not self._pins.unpin(user):
            raise ConfigError(f"{user} has no pin (show pins)")
        self._sharing.tell_pin(user, None)

    async def pins(self) -> list[PinRow]:
        if not self._pins.nodes:
            await trio.lowlevel.checkpoint()
            return []
        online: dict[str, Counter[str]] = {}
        for row in await self._sessions.session_rows():
            if row.jid is not None and row.node is not None:
                online.setdefault(user_key(jid.bare(row.jid)), Counter())[row.node] += 1
        return [
            PinRow(
                user, node, here=(there := online.get(user, Counter()))[node], elsewhere=sorted(there.keys() - {node})
            )
            for user, node in sorted(self._pins.nodes.items())
        ]

    def rebalance(self, *, rate: float | None = None, max_share: float | None = None) -> None:
        self._rebalances.begin(rate=rate, max_share=max_share)

    async def plan_rebalance(self, *, rate: float | None = None, max_share: float | None = None) -> RebalancePlan:
        plan = await self._sessions.plan_rebalance(max_share)
        rate = (rate if rate is not None else self._drainer.rate) * self._drainer.share
        places = {node.name: place for place, node in enumerate(self._cluster)}
        moves = [
            PlannedMove(source, target, sessions)
            for source, targets in plan.moves.items()
            for target, sessions in targets.items()
            if sessions and source in places and target in places
        ]
        moves.sort(key=lambda move: (places[move.source], places[move.target]))
        return RebalancePlan(
            plan.sessions,
            plan.inactive,
            moves,
            rate,
            seconds=plan.sessions / rate,
            stay_down=plan.stay_down,
            held=plan.held,
            held_seconds=plan.held_seconds,
        )

    def stop_rebalance(self) -> None:
        if not self._rebalances.stop():
            raise ConfigError("no rebalance goes on")

    async def wait_rebalanced(self) -> AsyncGenerator[RebalanceProgress, None]:
        rebalance = self._rebalances.last
        if rebalance is None:
            raise ConfigError("no rebalance goes on")
        while True:
            await self._sessions.refresh()
            self._rebalances.look()
            progress = _rebalance_progress(rebalance)
            yield progress
            if progress.finished:
                return
            await trio.sleep(_PROGRESS_SECONDS)

    async def move(self, address: str, node: str) -> int:
        target = self._cluster.get(node)
        if target.leaving or target.health is Health.DOWN:
            raise ConfigError(f"node '{node}' can't take anybody now: it is {_condition(target)}")
        domain = jid.domain(address)
        if not target.spec.serves(domain_key(domain)):
            raise ConfigError(f"node '{node}' does not serve {domain}")
        moved = await self._sessions.move(address, node)
        if not moved:
            raise ConfigError(f"{address} has no client that could be moved to '{node}'")
        emit(_log, "move", jid=address, node=node, sessions=moved)
        return moved

    async def nodes(self) -> list[NodeRow]:
        await self._sessions.refresh()
        rows, drains = [], self._drainer.drains
        for number, node in enumerate(self._cluster, start=1):
            rows.append(node_row(node, self._sessions.of_node(node.name), drains.get(node.name)))
            if number % ROWS_AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
        return rows

    async def sessions(self) -> list[SessionRow]:
        return await self._sessions.session_rows()

    async def transfers(self) -> list[TransferRow]:
        return await self._sessions.transfer_rows()

    def omissions(self) -> list[str]:
        return self._sessions.omissions()

    async def workers(self) -> list[WorkerRow]:
        await self._sessions.refresh()
        return self._sessions.worker_rows()

    async def source(self) -> list[SourceRow]:
        await trio.lowlevel.checkpoint()
        return [self._sharing.source_row()]

    async def proxies(self) -> list[ProxyRow]:
        await trio.lowlevel.checkpoint()
        return self._sharing.proxy_rows()

    async def reload(self) -> str:
        return await self._reloader()

    def restart_workers(self) -> None:
        if self._restarts is None:
            raise ConfigError(ONE_PROCESS)
        self._restarts.begin()

    async def wait_restarted(self) -> AsyncGenerator[RestartProgress, None]:
        restart = self._restarts.last if self._restarts is not None else None
        if restart is None:
            raise ConfigError("the workers are not being replaced")
        while True:
            await self._sessions.refresh()
            progress = restart.progress()
            yield progress
            if progress.finished:
                return
            await trio.sleep(_PROGRESS_SECONDS)


def _check_text(check: CheckResult) -> str:
    return f"ok {check.seconds * 1000:.0f} ms" if check.text == "ok" else check.text


def _not_all(elsewhere: int | None) -> str | None:
    return "other proxies have not said yet that they empty it" if elsewhere is None else None


def _check_times(grace: float | None, deadline: float | None) -> None:
    if grace is not None and deadline is not None and grace >= deadline:
        raise ConfigError("expected a grace that is over before the deadline: nobody would be asked otherwise")


def _rebalance_progress(rebalance: Rebalance) -> RebalanceProgress:
    counts = rebalance.counts
    why_not = "it is being planned" if not rebalance.planned else say_of_held(rebalance, trio.current_time())
    return RebalanceProgress(
        total=counts.planned,
        asked=counts.asked,
        moved=counts.moved,
        refused=counts.refused,
        silent=counts.silent,
        failed=counts.failed,
        left=counts.left + counts.held,
        finished=rebalance.ended is not None,
        waiting_reason=rebalance.ended or why_not,
        held=counts.held,
        held_seconds=max(0.0, rebalance.again_at - trio.current_time()) if rebalance.again_at is not None else None,
    )


def _condition(node: Node) -> str:
    if node.removed:
        return "no longer in the nodes file"
    return "down" if node.health is Health.DOWN else f"in state {node.wish}"


async def rebalance_forecast(
    registry: Registry, cluster: Cluster, placement: Placement, max_share: float | None
) -> RebalanceForecast:
    """What a rebalance would come to for this process's sessions."""
    total = RebalanceForecast()
    now = trio.current_time()
    for move in await planned_moves(registry, cluster, placement, max_share):
        total.add(move)
        held_until = registry.held_until(move.session_id, now)
        if held_until is not None and not move.stays_down:
            total.hold(held_until - now)
    return total


async def forecast(registry: Registry, cluster: Cluster, placement: Placement, node: str) -> Forecast:
    """What a drain of that node would come to for this process's sessions; raises as :func:`plan_drain`."""
    total = Forecast()
    for number, move in enumerate(plan_drain(registry.snapshot(trio.current_time()), node, cluster, placement)):
        if number % PLANNED_AT_A_TIME == 0:
            await trio.lowlevel.checkpoint()
        total.add(move)
    return total


def node_row(node: Node, counts: NodeCounts, drain: Drain | None = None) -> NodeRow:
    """``drain``: of the node; ``None``: there is none."""
    check, now = node.check, trio.current_time()
    return NodeRow(
        name=node.name,
        address=str(node.spec.address),
        public=str(node.spec.public) if node.spec.public is not None else None,
        wish="removed" if node.removed else str(node.wish),
        health=str(node.health),
        weight=node.spec.weight,
        sessions=counts.sessions,
        moved_away=counts.moved,
        connect_failures=counts.connect_failures,
        forged=counts.forged,
        asked=counts.asked,
        refused=counts.refused,
        silent=counts.silent,
        failed=counts.failed,
        returned=counts.returned,
        usable=node.usable,
        waiting=counts.expected,
        health_seconds=now - node.health_since if node.health_since is not None else None,
        check=_check_text(check) if check is not None else None,
        check_seconds_ago=now - check.at if check is not None else None,
        ramp=node.ramp,
        priority=node.spec.priority,
        drain=("done" if drain.done else str(drain.stage)) if drain is not None else None,
        drain_reason=drain.waiting_reason if drain is not None else None,
    )


async def session_states(registry: Registry) -> dict[str, int]:
    """How many of this process's sessions are in which state."""
    states: Counter[str] = Counter()
    for number, relayed in enumerate(registry):
        if number % COUNTED_AT_A_TIME == 0:
            await trio.lowlevel.checkpoint()
        states[relayed.session.state.value] += 1
    return states


def session_rows(registry: Registry, now: float) -> list[SessionRow]:
    """All of this process's sessions, oldest first."""
    return [_session_row(relayed, now) for relayed in registry]


def transfer_rows(registry: Registry, now: float) -> tuple[list[TransferRow], list[TransferRow]]:
    """This process's transfers: those that are over, in the order they ended, and those that run."""
    ended = [_transfer_row(record, now) for record in registry.recent]
    return ended, [row for relayed in registry if (row := _running_row(relayed, now)) is not None]


def _session_row(relayed: Relayed, now: float) -> SessionRow:
    session = relayed.session
    return SessionRow(
        id=relayed.id,
        jid=session.full_jid,
        node=session.node,
        state=session.state.value,
        tls=relayed.tls_version,
        stream_management=session.stream_management,
        client_address=relayed.client_address,
        age_seconds=now - relayed.opened,
        idle_seconds=now - relayed.last_active,
        transfer=str(session.rung) if session.rung is not None else None,
        inactive=session.inactive,
    )


def _running_row(relayed: Relayed, now: float) -> TransferRow | None:
    transfer = relayed.session.transfer_under_way
    if transfer is None:
        return None
    return TransferRow(
        session=relayed.id,
        jid=relayed.session.full_jid or "",
        source=relayed.session.node,
        target=transfer.order.target,
        rung=str(transfer.rung),
        outcome=None,
        seconds_ago=now - transfer.started,
        duration_seconds=now - transfer.started,
        reason=str(transfer.order.trigger),
        software=name_of(relayed.session.software),
        caps=relayed.session.software.caps,
    )


def _transfer_row(record: TransferRecord, now: float) -> TransferRow:
    rung, outcome = record.tried[-1]
    return TransferRow(
        session=record.session,
        jid=record.full_jid or "",
        source=record.source,
        target=record.target,
        rung=str(rung),
        outcome=str(outcome),
        seconds_ago=now - record.ended + record.seconds,
        duration_seconds=record.seconds,
        reason=str(record.trigger),
        software=name_of(record.software),
        caps=record.software.caps,
    )
