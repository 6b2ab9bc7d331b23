"""How a worker answers each of the supervisor's questions (:mod:`cxfr_proxy.ipc.questions`), a row each.

Long answers are given in parts, between which sessions are served. To answer something new, write how, and add a
row to :data:`ANSWERS`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

import trio

from cxfr_proxy.admin.latest_events import event_rows
from cxfr_proxy.admin.rows.rows import TransferRow
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.placement import Placement
from cxfr_proxy.cluster.plan import DrainForecast, plan_drain
from cxfr_proxy.cluster.rebalance import RebalanceForecast
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.ipc.questions import (
    AnyQuestion,
    ClientsMoved,
    CountStates,
    Done,
    DrainPlanned,
    EventRows,
    FindPinned,
    FindSessions,
    KickUser,
    ListEvents,
    ListTransfers,
    MoveUser,
    PinnedUsers,
    PlanDrain,
    PlanRebalance,
    RebalancePlanned,
    ReportCounts,
    SessionRows,
    SessionsEnded,
    SessionShown,
    ShowSession,
    StateCounts,
    TakeSettings,
    TransferRows,
    WorkerReply,
)
from cxfr_proxy.session.client_software import name_of
from cxfr_proxy.spellings import user_key
from cxfr_proxy.transfers.counts import TransferRecord
from cxfr_proxy.transfers.planner import planned_moves
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.transfers.relayed import Addressed, Relayed, user_of
from cxfr_proxy.worker.parts import WorkerParts
from cxfr_proxy.worker.session_views import Selection, details_row, session_row

COUNTED_AT_A_TIME: Final = 1000
"""Sessions looked at between two checkpoints: some tenths of a millisecond."""
PLANNED_AT_A_TIME: Final = 100
"""Moves planned between two checkpoints: some milliseconds, in which no session is served."""
ROWS_AT_A_TIME: Final = 100
"""Rows in a part of an answer: about a millisecond."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


# --- the answers


async def answer_counts(parts: WorkerParts, question: ReportCounts) -> AsyncIterator[Done]:
    parts.reports.report()
    await trio.lowlevel.checkpoint()
    yield Done()


async def answer_states(parts: WorkerParts, question: CountStates) -> AsyncIterator[StateCounts]:
    states = await session_states(parts.registry)
    parts.reports.report()
    yield StateCounts(states)


async def answer_sessions(parts: WorkerParts, question: FindSessions) -> AsyncIterator[SessionRows]:
    """List the sessions that match, the oldest first, until there are enough; the others are only counted."""
    selection = Selection(question.filters)
    async for some in _live_pieces(parts.registry):
        now, machine_now = trio.current_time(), time.monotonic()
        with parts.listing.charged():
            shown, matching = selection.matching(some)
            rows = SessionRows(
                [machine_now - (now - relayed.opened) for relayed, _ in shown],
                [session_row(relayed, now, parts.leaving_pid) for relayed, _ in shown],
                [shown_by for _, shown_by in shown],
                matching,
            )
        yield rows
        await parts.listing.wait()


async def answer_session(parts: WorkerParts, question: ShowSession) -> AsyncIterator[SessionShown]:
    relayed = parts.registry.get(question.session)
    yield SessionShown(details_row(parts, relayed, trio.current_time()) if relayed is not None else None)


async def answer_pinned(parts: WorkerParts, question: FindPinned) -> AsyncIterator[PinnedUsers]:
    pinned = parts.assigned.pins.nodes
    async for some in _live_pieces(parts.registry):
        found: dict[str, Counter[str]] = {}
        with parts.listing.charged():
            for session in [relayed.session for relayed in some]:
                user = user_of(session)
                if user is not None and (key := user_key(user)) in pinned:
                    found.setdefault(key, Counter())[session.node] += 1
        yield PinnedUsers({user: dict(nodes) for user, nodes in found.items()})
        await parts.listing.wait()


async def answer_events(parts: WorkerParts, question: ListEvents) -> AsyncIterator[EventRows]:
    yield EventRows(event_rows(f"worker {parts.number}"))


async def answer_kick(parts: WorkerParts, question: KickUser) -> AsyncIterator[SessionsEnded]:
    addressed = Addressed(question.jid)
    async for some in _live_pieces(parts.registry):
        found = [relayed for relayed in some if addressed.includes(relayed.session)]
        for relayed in found:
            relayed.kick()
        yield SessionsEnded(len(found))


async def answer_transfers(parts: WorkerParts, question: ListTransfers) -> AsyncIterator[TransferRows]:
    """List the transfers that are over, in the order in which they ended, then those that run."""
    for records in _pieces(list(parts.registry.counts.recent)):
        now = trio.current_time()
        with parts.listing.charged():
            over = TransferRows([_transfer_row(record, now, parts.leaving_pid) for record in records])
        yield over
        await parts.listing.wait()
    async for some in _live_pieces(parts.registry):
        now = trio.current_time()
        with parts.listing.charged():
            rows = [_running_row(relayed, now, parts.leaving_pid) for relayed in some]
        yield TransferRows([row for row in rows if row is not None])
        await parts.listing.wait()


async def answer_drain(parts: WorkerParts, question: PlanDrain) -> AsyncIterator[DrainPlanned]:
    if question.node in parts.cluster:  # else it was forgotten meanwhile, and nobody is there
        yield DrainPlanned(
            await forecast(parts.registry, parts.cluster, parts.placement, question.node, migrates=parts.mover.migrates)
        )


async def answer_rebalance(parts: WorkerParts, question: PlanRebalance) -> AsyncIterator[RebalancePlanned]:
    yield RebalancePlanned(
        await rebalance_forecast(
            parts.registry, parts.cluster, parts.placement, question.max_share, migrates=parts.mover.migrates
        )
    )


async def answer_move(parts: WorkerParts, question: MoveUser) -> AsyncIterator[ClientsMoved]:
    if question.node in parts.cluster:
        yield ClientsMoved(parts.mover.move(question.jid, question.node))


async def answer_settings(parts: WorkerParts, question: TakeSettings) -> AsyncIterator[Done]:
    """Use these settings and files. Raises :class:`ConfigError` for certificates that are no good here, and then goes
    on with the former settings."""
    await trio.lowlevel.checkpoint()
    try:
        parts.take_settings(question)
    except ConfigError as exc:
        emit(_log, "reload-failed", level=logging.ERROR, what="certificates", error=str(exc))
        raise
    yield Done()


ANSWERS: Final[Mapping[type[AnyQuestion], Callable[[WorkerParts, Any], AsyncIterator[WorkerReply]]]] = {
    ReportCounts: answer_counts,
    CountStates: answer_states,
    FindSessions: answer_sessions,
    ShowSession: answer_session,
    FindPinned: answer_pinned,
    ListEvents: answer_events,
    ListTransfers: answer_transfers,
    PlanDrain: answer_drain,
    PlanRebalance: answer_rebalance,
    MoveUser: answer_move,
    KickUser: answer_kick,
    TakeSettings: answer_settings,
}


def answer(parts: WorkerParts, question: AnyQuestion) -> AsyncGenerator[WorkerReply, None]:
    """Yield the parts of the answer. Raises whatever keeps the worker from giving one."""
    return cast("AsyncGenerator[WorkerReply, None]", ANSWERS[type(question)](parts, question))


def _pieces(rows: Sequence[_T]) -> Iterator[Sequence[_T]]:
    return (rows[at : at + ROWS_AT_A_TIME] for at in range(0, len(rows), ROWS_AT_A_TIME))


async def _live_pieces(registry: Registry) -> AsyncIterator[list[Relayed]]:
    """Yield this process's sessions, oldest first, but for those that end meanwhile: others are served in between."""
    for some in _pieces(list(registry)):
        await trio.lowlevel.checkpoint()
        yield [relayed for relayed in some if registry.get(relayed.id) is relayed]


# --- what they are made of


async def rebalance_forecast(
    registry: Registry, cluster: Cluster, placement: Placement, max_share: float | None, *, migrates: bool
) -> RebalanceForecast:
    """Return what a rebalance would do to this process's sessions."""
    total = RebalanceForecast()
    now = trio.current_time()
    for move in await planned_moves(registry, cluster, placement, max_share, migrates=migrates):
        total.add(move)
        held_until = registry.memory.held_until(move.session_id, now)
        if held_until is not None and not move.stays_down:
            total.hold(held_until - now)
    return total


async def forecast(
    registry: Registry, cluster: Cluster, placement: Placement, node: str, *, migrates: bool
) -> DrainForecast:
    """Return what a drain of that node would do to this process's sessions. Raises as :func:`plan_drain`."""
    total = DrainForecast()
    snapshot = registry.snapshot(trio.current_time())
    for number, move in enumerate(plan_drain(snapshot, node, cluster, placement, migrates=migrates)):
        if number % PLANNED_AT_A_TIME == 0:
            await trio.lowlevel.checkpoint()
        total.add(move)
    return total


async def session_states(registry: Registry) -> dict[str, int]:
    """Return how many of this process's sessions are in which state."""
    states: Counter[str] = Counter()
    for number, relayed in enumerate(registry):
        if number % COUNTED_AT_A_TIME == 0:
            await trio.lowlevel.checkpoint()
        states[relayed.session.state.value] += 1
    return states


def _running_row(relayed: Relayed, now: float, leaving: int | None) -> TransferRow | None:
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
        trigger=str(transfer.order.trigger),
        software=name_of(relayed.session.software),
        caps=relayed.session.software.caps,
        leaving=leaving,
    )


def _transfer_row(record: TransferRecord, now: float, leaving: int | None) -> TransferRow:
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
        trigger=str(record.trigger),
        software=name_of(record.software),
        caps=record.software.caps,
        leaving=leaving,
    )
