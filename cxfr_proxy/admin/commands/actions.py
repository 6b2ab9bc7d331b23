"""The commands' actions and answers: a function each, which takes the parts of the proxy that it needs.

Keyword arguments are the command's, as :data:`~.table.COMMANDS` lists and checks them. A function starts what takes a
while and returns at once. Only ``wait`` waits; cancelling it at any moment ends the wait and nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from msgspec import Raw
from msgspec.structs import replace

from cxfr_proxy.admin.commands.arguments import BadArguments
from cxfr_proxy.admin.latest_events import error_rows
from cxfr_proxy.admin.rows.answers import MessageRow, Note, ReloadFaults
from cxfr_proxy.admin.rows.filters import SessionFilter
from cxfr_proxy.admin.rows.order_rows import (
    DrainPlan,
    DrainProgress,
    Progress,
    RebalancePlan,
    RebalanceProgress,
    RestartProgress,
    Returning,
    RollPlan,
    RollProgress,
    UpgradeProgress,
)
from cxfr_proxy.admin.rows.rows import ErrorRow, EventRow
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.units import agreeing, counted, part_of

if TYPE_CHECKING:  # the command line reads the table of commands, and starts faster without the parts of a proxy
    from cxfr_proxy.admin.console.clients import ClientControl
    from cxfr_proxy.admin.console.drains import DrainControl
    from cxfr_proxy.admin.console.nodes import NodeControl
    from cxfr_proxy.admin.console.parts import About, Peers, Reloader, SettingsControl
    from cxfr_proxy.admin.console.pins import PinControl
    from cxfr_proxy.admin.console.rebalances import RebalanceControl
    from cxfr_proxy.admin.console.rolls import RollControl
    from cxfr_proxy.admin.console.upgrades import UpgradeControl
    from cxfr_proxy.admin.console.workers import WorkerControl
    from cxfr_proxy.config.values import PeerNetwork

ReportProgress = Callable[[Progress | Note], Awaitable[None]]
"""Send progress, or a note on the answer, to the command line that waits. May block, and may raise once nobody waits
any more."""

_P = TypeVar("_P", DrainProgress, RebalanceProgress, RestartProgress, RollProgress, UpgradeProgress)
_E = TypeVar("_E", bound=EventRow)


async def drain(
    drains: DrainControl,
    peers: Peers,
    report: ReportProgress,
    *,
    node: str,
    plan: bool,
    wait: bool,
    grace: float | None,
    deadline: float | None,
    rate: float | None,
    force: bool,
) -> DrainPlan | DrainProgress | MessageRow:
    if plan and wait:
        raise BadArguments("drain: with plan nothing begins, so there is nothing to wait for")
    if plan:
        return await drains.plan(node, grace=grace, deadline=deadline, rate=rate)
    refused = drains.refused_without(node)
    drains.begin(node, grace=grace, deadline=deadline, rate=rate, force=force)
    if wait:
        return await _watch(drains.follow(node), report, f"the drain of {node} ended before it could be watched")
    cost = f"; {refused} is refused until another node is ready and up" if refused is not None else ""
    return _message(peers, f"{node} is being drained{cost}")


async def abort(drains: DrainControl, peers: Peers, *, node: str) -> MessageRow:
    drains.abort(node)
    return _message(peers, f"the drain of {node} is stopped; its clients stay, and nobody new is placed there")


async def undrain(
    drains: DrainControl, rebalances: RebalanceControl, peers: Peers, *, node: str, no_rebalance: bool
) -> MessageRow:
    drains.undrain(node, rebalance=not no_rebalance)
    row = await rebalances.plan_return(node)
    follows = _what_follows(replace(row, begins_in=None) if no_rebalance else row)
    return _message(peers, f"{node} takes clients again{follows}")


def _what_follows(row: Returning) -> str:
    """Return what happens to users who belong on that node."""
    if not row.up:
        when = "some time after that" if row.begins_in is not None else "by the next rebalance"
        return f" when it is up; users who belong there are moved {when}"
    if not row.to_move:
        return "; all users are where they belong"
    sessions = f"{counted(row.to_move, 'session')} {agreeing(row.to_move, 'is', 'are')}"
    if row.begins_in is None:
        return f"; {sessions} left elsewhere than they belong until the next rebalance"
    held = f", {row.held} of them later (they were moved less than redirect-window ago)" if row.held else ""
    return f"; {sessions} moved to where they belong in {row.begins_in:.0f} s{held}; undrain --no-rebalance leaves them"


async def rebalance(
    rebalances: RebalanceControl,
    report: ReportProgress,
    *,
    plan: bool,
    wait: bool,
    rate: float | None,
    max_share: float | None,
    stop: bool,
) -> RebalancePlan | RebalanceProgress | MessageRow:
    if plan + wait + stop > 1:
        raise BadArguments("rebalance: expected one of plan, wait and stop")
    if plan:
        return await rebalances.plan(rate=rate, max_share=max_share)
    if stop:
        rebalances.stop()
        return MessageRow("the rebalance is stopped; clients that were asked already may still leave")
    rebalances.begin(rate=rate, max_share=max_share)
    if wait:
        return await _watch(rebalances.follow(), report, "the rebalance ended before it could be watched")
    return MessageRow("clients that are elsewhere than they belong are being moved")


async def roll(
    rolls: RollControl,
    report: ReportProgress,
    *,
    nodes: Sequence[str],
    plan: bool,
    run: bool,
    rate: float | None,
    deadline: float | None,
    continue_: bool,
    restarted: str | None,
    failed: str | None,
    abort: bool,
) -> RollPlan | RollProgress | MessageRow:
    given = [bool(nodes), continue_, restarted is not None, failed is not None, abort]
    if sum(given) != 1:
        raise BadArguments("roll: expected nodes, or one of continue, restarted, failed and abort")
    if len(set(nodes)) < len(nodes):
        raise BadArguments("roll: expected each node once")
    if not nodes and (rate is not None or deadline is not None):
        raise ConfigError("roll: rate and deadline are those of a roll that begins; one that goes on keeps its own")
    if plan:
        if not nodes:
            raise BadArguments("roll: expected the nodes to plan for")
        return await rolls.plan(nodes, rate=rate, deadline=deadline)
    if restarted is not None:
        rolls.roller.restarted(restarted)
        return MessageRow(f"the roll goes on when checks have found {restarted} up")
    if failed is not None:
        rolls.roller.fail(failed)
        return MessageRow("the roll has stopped; roll --continue goes on with it, roll --abort gives it up")
    if abort:
        return MessageRow(rolls.abort())
    if continue_:
        rolls.roller.proceed(by_command=run)
    else:
        rolls.roller.begin(nodes, rate=rate, deadline=deadline, by_command=run)
    return await _watch(rolls.follow(runs=run), report, "the roll was over before it could be watched")


async def move(nodes: NodeControl, *, jid: str, node: str) -> MessageRow:
    asked = await nodes.move(jid, node)
    return MessageRow(f"{counted(asked, 'client')} of {jid} asked to move to {node}")


async def kick(clients: ClientControl, *, jid: str) -> MessageRow:
    ended = await clients.kick(jid)
    return MessageRow(f"{counted(ended, 'session')} of {jid} ended")


async def list_sessions(
    clients: ClientControl,
    report: ReportProgress,
    *,
    user: str | None,
    node: str | None,
    address: PeerNetwork | None,
    limit: int | None,
) -> Sequence[Raw]:
    wanted = SessionFilter(user, node, str(address) if address is not None else None, limit)
    found = await clients.sessions(wanted)
    if found.matching > len(found.rows):
        await report(Note(f"{part_of(len(found.rows), found.matching, 'session')} shown"))
    return found.rows


async def list_events(about: About, *, limit: int | None) -> Sequence[EventRow]:
    return _newest(await about.events(), limit)


async def list_errors(about: About, *, limit: int | None) -> Sequence[ErrorRow]:
    return _newest(error_rows(await about.events()), limit)


def _newest(rows: Sequence[_E], limit: int | None) -> Sequence[_E]:
    return rows[-limit:] if limit is not None else rows


async def pin(pins: PinControl, peers: Peers, *, jid: str, node: str) -> MessageRow:
    pins.pin(jid, node)
    return _message(
        peers, f"{jid} is placed on {node} from now on; a rebalance moves sessions that are elsewhere (show pins)"
    )


async def unpin(pins: PinControl, peers: Peers, *, jid: str) -> MessageRow:
    pins.unpin(jid)
    return _message(peers, f"{jid} is placed like everybody else again")


async def reload(files: Reloader) -> MessageRow | ReloadFaults:
    try:
        return MessageRow(await files.reload())
    except ConfigError as exc:
        return ReloadFaults([str(error) for error in exc.errors])


async def set_value(settings: SettingsControl, *, setting: str, value: Sequence[str]) -> MessageRow:
    return MessageRow(await settings.set(setting, value))


async def unset_value(settings: SettingsControl, *, setting: str) -> MessageRow:
    return MessageRow(await settings.unset(setting))


async def restart_workers(
    workers: WorkerControl, report: ReportProgress, *, wait: bool
) -> RestartProgress | MessageRow:
    workers.restart()
    if wait:
        return await _watch(workers.follow(), report, "the workers were replaced before it could be watched")
    return MessageRow("the workers are being replaced")


async def upgrade(upgrades: UpgradeControl, report: ReportProgress, *, with_: Path | None) -> UpgradeProgress:
    upgrades.begin(with_)
    return await _watch(upgrades.follow(), report, "the proxy was replaced before it could be watched")


async def _watch(rows: AsyncGenerator[_P, None], report: ReportProgress, missed: str) -> _P:
    """Report each row, and return the last one. Raises :class:`ConfigError` where there is none."""
    last: _P | None = None
    async with aclosing(rows):
        async for last in rows:
            await report(last)
    if last is None:
        raise ConfigError(missed)
    return last


def _message(peers: Peers, done: str) -> MessageRow:
    caveat = peers.caveat
    return MessageRow(f"{done} ({caveat})" if caveat is not None else done)
