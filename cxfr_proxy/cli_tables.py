"""Tables for people: aligned columns, the progress of a drain or a rebalance, its outcome in a sentence.

Everything here takes the decoded JSON that the control socket answers, and returns text; nothing prints. A field that
an older proxy doesn't send shows as ``-``. JIDs, addresses and reasons were written by strangers, so :func:`clean`
removes everything that could move a terminal's cursor or colour it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

RowJson = Mapping[str, object]


def clean(text: str) -> str:
    """``text`` on one line, with every character that doesn't print replaced by U+FFFD."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _plain(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return clean(str(value))


def _list(value: object) -> str:
    return _plain(", ".join(map(str, value)) if isinstance(value, list) else value)


def duration(value: object) -> str:
    """Seconds as people say them: ``0.4s``, ``42s``, ``3m10s``, ``5h02m``, ``2d03h``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-"
    if value < 10:
        return f"{value:.1f}s"
    whole = int(value)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"


def _percent(value: object) -> str:
    return f"{value:.0%}" if isinstance(value, int | float) and not isinstance(value, bool) else "-"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its title, the row's field, and how a value is written. ``right`` aligns it as a number."""

    title: str
    field: str
    show: Callable[[object], str] = _plain
    right: bool = False


VIEWS: Final[Mapping[str, tuple[Column, ...]]] = {
    "nodes": (
        Column("NODE", "name"),
        Column("ADDRESS", "address"),
        Column("PUBLIC", "public"),
        Column("ADMIN STATE", "admin_state"),
        Column("DRAIN", "drain"),
        Column("HEALTH", "health"),
        Column("SINCE", "health_seconds", duration, right=True),
        Column("CHECK", "check"),
        Column("WEIGHT", "weight", right=True),
        Column("WARM-UP", "warm_up", _percent, right=True),
        Column("SESSIONS", "sessions", right=True),
        Column("WAITING", "waiting", right=True),
        Column("MOVED", "moved", right=True),
        Column("RETURNED", "returned", right=True),
        Column("UNREACHED", "connect_failures", right=True),
        Column("FORGED", "forged", right=True),
    ),
    "sessions": (
        Column("ID", "id", right=True),
        Column("JID", "jid"),
        Column("NODE", "node"),
        Column("STATE", "state"),
        Column("TLS", "tls"),
        Column("SM", "stream_management"),
        Column("CLIENT", "client_address"),
        Column("AGE", "age_seconds", duration, right=True),
        Column("IDLE", "idle_seconds", duration, right=True),
        Column("INACTIVE", "inactive"),
        Column("TRANSFER", "transfer"),
    ),
    "transfers": (
        Column("SESSION", "session", right=True),
        Column("JID", "jid"),
        Column("FROM", "source"),
        Column("TO", "target"),
        Column("SOFTWARE", "software"),
        Column("RUNG", "rung"),
        Column("OUTCOME", "outcome", lambda value: "running" if value is None else _plain(value)),
        Column("AGO", "seconds_ago", duration, right=True),
        Column("TOOK", "duration_seconds", duration, right=True),
        Column("RETURNED", "returned_seconds", duration, right=True),
        Column("TRIGGER", "trigger"),
    ),
    "pins": (
        Column("USER", "user"),
        Column("NODE", "node"),
        Column("HERE", "here", right=True),
        Column("ALSO ON", "elsewhere", _list),
    ),
    "workers": (
        Column("WORKER", "number", right=True),
        Column("PID", "pid", right=True),
        Column("STATE", "state"),
        Column("SESSIONS", "sessions", right=True),
        Column("CONNECTIONS", "connections", right=True),
        Column("DEATHS", "deaths", right=True),
        Column("HUNG", "hung", right=True),
        Column("SILENT", "silent_seconds", duration, right=True),
    ),
    "source": (
        Column("SOURCE", "source"),
        Column("STATE", "state"),
        Column("SINCE", "lost_seconds", duration, right=True),
        Column("NODES", "nodes", right=True),
        Column("PROXIES", "proxies", right=True),
        Column("RATE", "rate", lambda value: f"{value:.3g}/s" if isinstance(value, int | float) else "-", right=True),
        Column("PENDING", "pending", right=True),
        Column("REASON", "reason"),
    ),
    "proxies": (
        Column("PROXY", "name"),
        Column("THIS", "own"),
        Column("SESSIONS", "sessions", right=True),
        Column("TO MOVE", "to_move", right=True),
    ),
}
"""The views of ``show``, by name."""


def table(columns: Sequence[Column], rows: Sequence[RowJson]) -> str:
    """Titles and rows in aligned columns, two spaces between them, without a last newline."""
    cells = [[column.title for column in columns]]
    cells += [[column.show(row.get(column.field)) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return "\n".join(_aligned(columns, widths, line) for line in cells)


def _aligned(columns: Sequence[Column], widths: Sequence[int], line: Sequence[str]) -> str:
    parts = zip(columns, widths, line, strict=True)
    padded = [cell.rjust(width) if column.right else cell.ljust(width) for column, width, cell in parts]
    return "  ".join(padded).rstrip()


_COUNTS: Final = ("asked", "moved", "refused", "silent", "failed", "left")


def _number(row: RowJson, field: str) -> int:
    value = row.get(field)
    return value if isinstance(value, int) else 0


def progress_line(row: RowJson) -> str:
    """Return the progress of a drain, a rebalance or a restart, as a line of a log."""
    if "replaced" in row:
        replaced, total = _number(row, "replaced"), _number(row, "total")
        return f"workers: {replaced} of {total} replaced, {_number(row, 'sessions')} sessions leaving"
    counts = ", ".join(f"{_number(row, name)} {name}" for name in _COUNTS)
    reason = row.get("waiting_reason")
    waiting = f" ({_plain(reason)})" if reason else ""
    return f"{_plain(row.get('node', 'rebalance'))}: {counts} of {_number(row, 'total')}{waiting}"


def progress_bar(row: RowJson, columns: int) -> str:
    """As :func:`progress_line`, in at most ``columns`` characters; the bar takes what the counts leave, if that is
    enough."""
    total, left = _number(row, "total"), _number(row, "left")
    done = 1.0 if total == 0 else min(1.0, max(0.0, 1 - left / total))
    line = progress_line(row)
    width = min(40, columns - len(line) - 3)
    if width < 8:
        return line[:columns]
    filled = int(done * width)
    return f"[{'#' * filled}{'.' * (width - filled)}] {line}"


_TARGETS: Final = (
    Column("TO", "node", lambda value: "none" if value is None else _plain(value)),
    Column("SESSIONS", "sessions", right=True),
)


def plan(row: RowJson) -> str:
    """Return a drain's plan: the targets in a table, the rest in a sentence below it."""
    targets = row.get("targets")
    rows = [target for target in targets if isinstance(target, dict)] if isinstance(targets, list) else []
    sentence = f"{_plain(row.get('node'))}: {_extent(row)}"
    if refused := row.get("refuses_logins"):
        sentence += f"\n{_plain(refused)} would be refused, for no other node is ready and up: it takes --force"
    if stay_down := _number(row, "stay_down"):
        sentence += f"\n{stay_down} of them use software that is known not to come back, however it is told to move"
    return f"{table(_TARGETS, rows)}\n{sentence}" if rows else sentence


_MOVES: Final = (
    Column("FROM", "source"),
    Column("TO", "target"),
    Column("SESSIONS", "sessions", right=True),
)


def rebalance_plan(row: RowJson) -> str:
    """Return a rebalance's plan."""
    moves = row.get("moves")
    rows = [move for move in moves if isinstance(move, dict)] if isinstance(moves, list) else []
    stay_down = _number(row, "stay_down")
    left_alone = (
        f"\n{stay_down} more would move, but use software that is known not to come back, and are left where they are"
        if stay_down
        else ""
    )
    if held := _number(row, "held"):
        when = duration(row.get("held_seconds"))
        left_alone += f"\n{held} of them were moved less than redirect-window ago: they follow by themselves, in {when}"
    if not rows:
        return f"nobody would be moved{left_alone}" if left_alone else "all users are where they belong"
    return f"{table(_MOVES, rows)}\n{_extent(row)}{left_alone}"


def _extent(row: RowJson) -> str:
    rate = row.get("rate")
    pace = f"{rate:g} per second" if isinstance(rate, int | float) else "-"
    return (
        f"{_number(row, 'sessions')} sessions, {_number(row, 'inactive')} of them inactive;"
        f" at {pace} it takes about {duration(row.get('seconds'))}"
    )


def outcome(row: RowJson) -> str:
    """Return in a sentence how a drain, a rebalance or a restart ended."""
    if "replaced" in row:
        return _restart_outcome(row)
    if "node" not in row:
        return _rebalance_outcome(row)
    node, left = _plain(row.get("node")), _number(row, "left")
    if left:
        reason = row.get("waiting_reason")
        why = f": {_plain(reason)}" if reason else " at the deadline"
        return f"{node} is not empty: {left} of {_number(row, 'total')} sessions are left{why}"
    moved = f"{_number(row, 'moved')} of {_number(row, 'total')} sessions moved when asked"
    return f"{node} is empty: {moved}, {_number(row, 'returned')} of them back by now"


def _rebalance_outcome(row: RowJson) -> str:
    total, left = _number(row, "total"), _number(row, "left")
    if left:
        return f"{left} of {total} sessions are left where they are: {_plain(row.get('waiting_reason'))}"
    return (
        f"{_number(row, 'moved')} of {total} sessions moved when asked" if total else "all users are where they belong"
    )


def _restart_outcome(row: RowJson) -> str:
    replaced, total, cut = _number(row, "replaced"), _number(row, "total"), _number(row, "cut")
    reason = f": {_plain(row.get('failure'))}" if _number(row, "left") else ""
    out_of_time = f"; {cut} had clients left at the end of hard-stop-after, and cut them" if cut else ""
    return f"{replaced} of {total} workers are replaced{reason}{out_of_time}"
