"""Memory per idle session, plain and TLS: fresh from the login, and after it has carried a stanza.

The first sessions bring a program to its usual size; what the others add is divided by their number. The kernel's
buffers are in no process's size and are the same for all: two sockets a session.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench import machine
from bench.load import Load
from bench.machine import Memory
from bench.options import Options, loads, new_report, new_setup, tell
from bench.plots import Bars, Plot
from bench.relays import Kind, max_sessions
from bench.report import Goal, Report, Table, columns
from bench.spread import Spread, ratio

_KINDS: Final = (Kind.PROXY, Kind.HAPROXY, Kind.NGINX)
_FIRST: Final = 200
_SETTLE_SECONDS: Final = 0.5
_PLAIN_KIB: Final = 6.0
_COLUMNS: Final = columns(
    "relay | traffic | sessions | fresh: PSS KiB | RSS KiB | used: PSS KiB | RSS KiB | used / haproxy | used / nginx |"
    " empty: PSS MiB | processes"
)


@dataclass(slots=True)
class _Sizes:
    """KiB, a value a round. ``empty`` is the whole before anybody came, the others are per session."""

    processes: list[str] = field(default_factory=list)
    empty: list[Memory] = field(default_factory=list)
    fresh: list[Memory] = field(default_factory=list)
    used: list[Memory] = field(default_factory=list)


def run(options: Options) -> Report:
    report = new_report("idle", options)
    sessions = min(options.sessions or (1_000 if options.quick else 2_000), max_sessions() - _FIRST)
    table = Table("Memory per idle session", _COLUMNS)
    bars = Bars("used sessions, PSS", "KiB a session")
    missing: list[str] = []
    for tls in (False, True):
        sizes: dict[str, _Sizes] = {}
        for _ in range(options.rounds_or(3, 1)):
            _add_round(sizes, sessions, options, missing, tls=tls)
        _add_rows(table, bars, report, sizes, sessions, tls=tls)
    table.notes += [
        "PSS and RSS of all of a relay's processes together; each round starts them anew",
        "what the kernel holds for two sockets a session is in no process's size, for all alike",
        "a program that takes memory for its maximum beforehand has it in 'empty'",
        *missing,
    ]
    report.tables.append(table)
    report.plots.append(Plot("memory", "Memory of an idle session", [bars]))
    return report


def _add_round(sizes: dict[str, _Sizes], sessions: int, options: Options, missing: list[str], *, tls: bool) -> None:
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(loads(_KINDS, stack.enter_context(new_setup(options, tls=tls)), missing))
        for load in running:
            tell(f"idle, {'TLS' if tls else 'plain'}: {load.relay.name}, {sessions} sessions")
            _measure(load, sessions, sizes.setdefault(load.relay.name, _Sizes()))


def _measure(load: Load, sessions: int, sizes: _Sizes) -> None:
    sizes.empty.append(_memory(load))
    load.open(_FIRST)
    load.run(warm=0.0, seconds=0.2, in_flight=1)
    before = _memory(load)
    load.open(sessions)
    sizes.fresh.append((_memory(load) - before) / sessions)
    load.run(warm=0.0, seconds=0.5 + sessions / 5_000, in_flight=1)
    sizes.used.append((_memory(load) - before) / sessions)
    sizes.processes = [Path(f"/proc/{pid}/comm").read_text("utf-8").strip() for pid in load.relay.pids()]


def _memory(load: Load) -> Memory:
    time.sleep(_SETTLE_SECONDS)
    return machine.memory(load.relay.pids())


def _add_rows(table: Table, bars: Bars, report: Report, sizes: dict[str, _Sizes], sessions: int, *, tls: bool) -> None:
    word = "TLS" if tls else "plain"
    used = {name: Spread.of(each.pss for each in mine.used) for name, mine in sizes.items()}
    for name, mine in sizes.items():
        ratios = [ratio(used[name], used.get(peer)) if peer != name else None for peer in (Kind.HAPROXY, Kind.NGINX)]
        table.add(
            name,
            word,
            f"{sessions:,}",
            *(
                Spread.of(getattr(each, which) for each in when).show()
                for when in (mine.fresh, mine.used)
                for which in ("pss", "rss")
            ),
            *(f"{found.median:.2f}" if found else None for found in ratios),
            f"{Spread.of(each.pss / 1024 for each in mine.empty).median:.1f}",
            " + ".join(mine.processes),
        )
        report.data.append({"traffic": word, "relay": name, "sessions": sessions, **dataclasses.asdict(mine)})
    report.goals += _goals(used, tls=tls)
    theirs = used.get(Kind.HAPROXY)
    limit = (1.2 * theirs.median if theirs else None) if tls else _PLAIN_KIB
    bars.add_group(word, dict(used), limit)


def _goals(used: dict[str, Spread], *, tls: bool) -> list[Goal]:
    mine = used.get(Kind.PROXY)
    if not tls:
        return [Goal("plain: PSS of a used session", _PLAIN_KIB, mine, " KiB")]
    return [
        Goal("TLS: PSS of a used session / haproxy", 1.2, ratio(mine, used.get(Kind.HAPROXY)), " x"),
        Goal("TLS: PSS of a used session / nginx", 1.0, ratio(mine, used.get(Kind.NGINX)), " x"),
    ]
