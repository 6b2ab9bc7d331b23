"""Single answers in words: how far something is, how it ended, what it would come to. Texts are cleaned here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cxfr_proxy.admin.commands.views import COLUMNS_OF_PLANS
from cxfr_proxy.admin.rows.answers import MessageRow, ReloadFaults, SingleAnswer
from cxfr_proxy.admin.rows.codec import as_json
from cxfr_proxy.admin.rows.order_rows import (
    DrainPlan,
    DrainProgress,
    ForetoldRestart,
    PlannedMove,
    PlannedTarget,
    Progress,
    RebalancePlan,
    RebalanceProgress,
    RestartProgress,
    RollPlan,
    RollProgress,
    UpgradeProgress,
    UpgradeStep,
)
from cxfr_proxy.admin.text import clean, duration, table, width
from cxfr_proxy.units import agreeing, counted, part_of

_WIDEST_BAR = 40
_NARROWEST_BAR = 8


def progress_line(row: Progress) -> str:
    """Return how far it is, as a line of a log."""
    match row:
        case RollProgress():
            return f"roll: {_roll_step(row)}"
        case UpgradeProgress():
            remark = _remark(row)
            return f"{_subject(row)}: {_counts(row)}" + (f", {remark}" if remark else "")
        case RestartProgress():
            return f"{_subject(row)}: {_counts(row)}"
        case DrainProgress() | RebalanceProgress():
            remark = _remark(row) or _pace(row)
            left = f"{row.left} left of {row.total}"
            return f"{_subject(row)}: {_counts(row)}, {left}" + (f" ({remark})" if remark else "")


_STEPS: Final[Mapping[str, str]] = {
    "drain": "is drained: {sessions} left",
    "restart": "can be stopped",
    "return": "was restarted",
    "settle": "is up",
}
"""A roll's step, said of its node."""


def _roll_step(row: RollProgress) -> str:
    if row.node is None:
        return f"{_all_nodes(row.total)} done, {counted(row.moved, 'move')}"
    step = _STEPS.get(row.step, clean(row.step)).format(sessions=counted(row.sessions, "session"))
    if row.settling_seconds is not None:
        step = f"settles: it can be stopped in {duration(row.settling_seconds)}"
    reason = f" ({clean(row.reason)})" if row.reason else ""
    return f"{clean(row.node)} ({row.total - row.left + 1} of {row.total}) {step}{reason}"


def _all_nodes(count: int) -> str:
    return "the node is" if count == 1 else f"all {counted(count, 'node')} are"


def progress_bar(row: Progress, columns: int, seconds_left: float | None = None) -> str:
    """Return how far it is in at most ``columns`` columns of a terminal: what is done and left, and as much else as has
    room, each part whole. ``seconds_left``: about how long it still takes; ``None``: nobody knows."""
    done = 1.0 if row.total == 0 else min(1.0, max(0.0, 1 - row.left / row.total))
    percent = f"{int(done * 100)}%"
    text = f"{percent:>4} {_subject(row)}: {row.left} of {row.total} left"
    if width(text) > columns:
        return next((short for short in (f"{percent}, {row.left} left", percent) if len(short) <= columns), "")
    if remark := _remark(row):
        text = _with(text, remark, columns)
    elif seconds_left is not None and row.left:
        text = _with(text, f"about {_roughly(seconds_left)} to go", columns)
    if not remark and (pace := _pace(row)):
        text = _with(text, pace, columns)
    text = _with(text, _counts(row), columns - _NARROWEST_BAR - len("[]"))
    cells = min(_WIDEST_BAR, columns - width(text) - len("[]"))
    if cells < _NARROWEST_BAR:
        return text
    filled = int(done * cells)
    return f"[{'#' * filled}{'.' * (cells - filled)}]{text}"


def _roughly(seconds: float) -> str:
    """Return an estimate, which is good for no tenths of a second."""
    return duration(seconds) if seconds >= 10 else f"{max(1, round(seconds))}s"


def _with(text: str, part: str, columns: int) -> str:
    """Return the text with another part, if there is room for all of it."""
    longer = f"{text}, {part}"
    return longer if width(longer) <= columns else text


def _remark(row: Progress) -> str | None:
    """Return what it waits for, or where it is; ``None``: its counts say that."""
    match row:
        case RollProgress():
            return _roll_step(row)
        case UpgradeProgress() if row.step != UpgradeStep.START:
            return f"{counted(row.sessions, 'session')} {agreeing(row.sessions, 'leaves', 'leave')} the old one"
        case RestartProgress() | UpgradeProgress():
            return None
        case DrainProgress() if row.settling_seconds is not None:
            return f"settling: it can be stopped in {duration(row.settling_seconds)}"
        case DrainProgress() | RebalanceProgress():
            return clean(row.waiting_reason) if row.waiting_reason else None


def _pace(row: Progress) -> str | None:
    """Return how fast it goes, and why not faster; ``None``: not known yet, or it says nothing."""
    if not isinstance(row, DrainProgress) or row.per_second is None:
        return None
    return f"{row.per_second:.0f} a second" + (f", {clean(row.paced_by)}" if row.paced_by else "")


def _subject(row: Progress) -> str:
    match row:
        case DrainProgress():
            return clean(row.node)
        case RebalanceProgress():
            return "rebalance"
        case RestartProgress():
            return "workers"
        case RollProgress():
            return "roll"
        case UpgradeProgress():
            return "upgrade"


def _counts(row: Progress) -> str:
    match row:
        case RestartProgress():
            return f"{row.replaced} of {row.total} replaced, {counted(row.sessions, 'session')} leaving"
        case RollProgress():
            return counted(row.moved, "move")
        case UpgradeProgress():
            return _successor(row)
        case DrainProgress() | RebalanceProgress():
            return (
                f"{row.asked} asked, {row.moved} moved, {row.refused} refused, {row.silent} silent, {row.failed} failed"
            )


def in_words(answer: SingleAnswer) -> str:
    """Return an answer as people read it: a message, a plan, or how something ended."""
    match answer:
        case MessageRow():
            return clean(answer.message)
        case ReloadFaults():
            return "\n".join([*map(clean, answer.faults), "nothing is changed"])
        case DrainPlan():
            return _drain_plan(answer)
        case RebalancePlan():
            return _rebalance_plan(answer)
        case DrainProgress():
            return _drain_outcome(answer)
        case RebalanceProgress():
            return _rebalance_outcome(answer)
        case RestartProgress():
            return _restart_outcome(answer)
        case UpgradeProgress():
            return _upgrade_outcome(answer)
        case RollPlan():
            return _roll_plan(answer)
        case RollProgress():
            return _roll_outcome(answer)


def _drain_plan(plan: DrainPlan) -> str:
    """Return the targets in a table, the rest in sentences below it."""
    lines = [f"{clean(plan.node)}: {_extent(plan)}"]
    if plan.targets:
        lines.insert(0, table(COLUMNS_OF_PLANS[PlannedTarget], [as_json(target) for target in plan.targets]))
    if plan.refuses_logins is not None:
        refused = clean(plan.refuses_logins)
        lines.append(f"{refused} would be refused, for no other node is ready and up: it takes --force")
    if plan.migrate:
        others = plan.sessions - plan.migrate
        if plan.paced_rate is not None and plan.paced_rate < plan.rate:
            lines.append(f"that is {plan.paced_rate:.0f} a second for those that the proxy takes, as it was of late")
        lines.append(
            f"{plan.migrate} of them will not notice: the proxy takes their sessions to the other node; {others}"
            f" {agreeing(others, 'is', 'are')} told to move"
        )
    if plan.stay_down:
        use = agreeing(plan.stay_down, "uses", "use")
        lines.append(
            f"{plan.stay_down} of them {use} software that is known not to come back, however it is told to move"
        )
    return "\n".join(lines)


def _rebalance_plan(plan: RebalancePlan) -> str:
    exceptions = []
    if plan.stay_down:
        use = agreeing(plan.stay_down, "uses", "use")
        stay = agreeing(plan.stay_down, "is left where it is", "are left where they are")
        exceptions.append(
            f"{plan.stay_down} more would move, but {use} software that is known not to come back, and {stay}"
        )
    if plan.held:
        when = duration(plan.held_seconds)
        exceptions.append(
            f"{plan.held} of them {agreeing(plan.held, 'was', 'were')} moved less than redirect-window ago:"
            f" {agreeing(plan.held, 'it follows by itself', 'they follow by themselves')}, in {when}"
        )
    if not plan.moves:
        return "\n".join(["nobody would be moved", *exceptions]) if exceptions else "all users are where they belong"
    moves = table(COLUMNS_OF_PLANS[PlannedMove], [as_json(move) for move in plan.moves])
    return "\n".join([moves, _extent(plan), *exceptions])


def _extent(plan: DrainPlan | RebalancePlan) -> str:
    return (
        f"{counted(plan.sessions, 'session')}, {plan.inactive} of them inactive;"
        f" at {plan.rate:g} per second it takes about {duration(plan.seconds)}"
    )


def _drain_outcome(row: DrainProgress) -> str:
    node = clean(row.node)
    if row.left:
        why = f": {clean(row.waiting_reason)}" if row.waiting_reason else " at the deadline"
        return f"{node} is not empty: {part_of(row.left, row.total, 'session')} left{why}"
    return (
        f"{node} is empty: {row.moved} of {counted(row.total, 'session')} moved when asked,"
        f" {row.returned} of them {agreeing(row.returned, 'has', 'have')} returned"
    )


def _rebalance_outcome(row: RebalanceProgress) -> str:
    if row.left:
        there = agreeing(row.left, "where it is", "where they are")
        return f"{part_of(row.left, row.total, 'session')} left {there}: {clean(row.waiting_reason or '-')}"
    moved = f"{row.moved} of {counted(row.total, 'session')} moved when asked"
    return moved if row.total else "all users are where they belong"


def _roll_plan(plan: RollPlan) -> str:
    each = plan.moves / plan.sessions if plan.sessions else 0
    lines = [
        table(COLUMNS_OF_PLANS[ForetoldRestart], [as_json(node) for node in plan.nodes]),
        f"{counted(plan.sessions, 'session')}, {counted(plan.moves, 'move')}: {each:.2f} a session;"
        f" at {plan.rate:g} per second it takes about {duration(plan.seconds)}, and the restarts",
    ]
    if plan.migrate:
        lines.append(f"{plan.migrate} of them can be taken to another node by the proxy, and will not notice")
    if plan.refuses_logins is not None:
        lines.append(f"{clean(plan.refuses_logins)} would be refused, for no other node is ready and up: it would stop")
    return "\n".join(lines)


def _roll_outcome(row: RollProgress) -> str:
    if row.node is None:
        return (
            f"{_all_nodes(row.total)} restarted, {counted(row.moved, 'move')}; users may be elsewhere than they belong"
            " (rebalance moves them)"
        )
    why = f": {clean(row.reason)}" if row.reason else ""
    ended, follows = "has stopped", "; roll --continue goes on with it, roll --abort gives it up"
    if row.given_up:
        ended, follows = "is over", ""
    place = f"{clean(row.node)} ({row.total - row.left + 1} of {row.total}), step {clean(row.step)}"
    return f"the roll {ended} at {place}{why}{follows}"


def _restart_outcome(row: RestartProgress) -> str:
    reason = f": {clean(row.failure or '-')}" if row.left else ""
    out_of_time = f"; {row.cut} had clients left at the end of hard-stop-after, and cut them" if row.cut else ""
    return f"{part_of(row.replaced, row.total, 'worker')} replaced{reason}{out_of_time}"


def _upgrade_outcome(row: UpgradeProgress) -> str:
    if row.failure is not None:
        who = "the proxy goes on as it was" if row.step == UpgradeStep.START else f"process {row.pid} has failed"
        return f"{who}: {clean(row.failure)}"
    return f"{_successor(row)}; the old one has moved its clients and ends"


def _successor(row: UpgradeProgress) -> str:
    if row.step == UpgradeStep.START:
        return f"process {row.pid} starts" if row.pid is not None else "a process is started"
    return f"process {row.pid} (version {clean(row.version or '?')}) is the proxy"
