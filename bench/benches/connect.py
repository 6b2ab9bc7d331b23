"""TLS handshakes and full logins: how many per second, CPU for each, and how long one takes.

A full login is TCP, TLS 1.3, header, SASL PLAIN, header, bind. HAProxy and nginx pass the same bytes of it without
looking at them. Nobody resumes a TLS session. Opening is measured, closing is not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench import machine
from bench.load import Load, Measured, bottleneck
from bench.options import Options, loads, new_report, new_setup, tell
from bench.plots import Bars, Plot
from bench.relays import Kind, Setup, max_sessions
from bench.report import Goal, Report, Table, columns
from bench.spread import Spread, ratio

_KINDS: Final = (Kind.PROXY, Kind.HAPROXY, Kind.NGINX, Kind.DIRECT)
_PEERS: Final = (Kind.HAPROXY, Kind.NGINX)
_CLOSED_SECONDS: Final = 20.0
_CPU_GOAL: Final = 1.6
_ADDED_GOAL_MS: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Case:
    """``stage``: where a connection counts as open. ``parallel``: how many are being opened at a time."""

    name: str
    tls: bool
    stage: str
    parallel: int


_CASES: Final = (
    _Case("plain login", False, "login", 32),
    _Case("plain login, one at a time", False, "login", 1),
    _Case("TLS handshake", True, "tls", 32),
    _Case("TLS login", True, "login", 32),
    _Case("TLS login, one at a time", True, "login", 1),
)
_COLUMNS: Final = columns(
    f"what | relay | CPU ms each | {' | '.join(f'/ {peer}' for peer in _PEERS)} | per second | p50 ms | p99 ms |"
    " added p50 ms | added p99 ms | tickets each | relay's core | load's core | bottleneck"
)
_NOTES: Final = (
    "'direct' is plain: what is 'added' to it behind TLS has the handshake in it, the client's part as well",
    "tickets: sent with a handshake for the client to resume with; all relays are told to send one",
    "handshake: HAProxy and nginx connect to the node after it, the proxy waits for the client's header",
)

Rounds = dict[str, list[Measured]]
"""By relay, a value a round."""


def run(options: Options) -> Report:
    report = new_report("connect", options)
    table = Table("Connecting", _COLUMNS)
    cpu, added = (
        Bars("CPU of the relay, 32 at a time", "ms", digits=2),
        Bars("latency added, one at a time", "ms (p50)"),
    )
    missing: list[str] = []
    for tls in (False, True):
        with contextlib.ExitStack() as stack:
            setup = stack.enter_context(new_setup(options, tls=tls))
            running = stack.enter_context(loads(_KINDS, setup, missing))
            for case in _CASES:
                if case.tls == tls:
                    tell(f"connect: {case.name}")
                    rounds = _take_turns(running, case, options)
                    _add_rows(table, rounds, case, setup)
                    _add_results(report, cpu, added, rounds, case)
    table.notes += [*_NOTES, str(machine.cores()), *missing]
    report.tables.append(table)
    report.plots.append(Plot("login", "Connecting", [cpu, added]))
    return report


def _take_turns(running: Sequence[Load], case: _Case, options: Options) -> Rounds:
    count = min(options.sessions or (200 if options.quick else 1_000), max_sessions())
    if case.parallel == 1:
        count = min(count, 200)
    rounds: Rounds = {load.relay.name: [] for load in running if case.stage == "login" or load.relay.pids()}
    for _ in range(options.rounds_or(5, 2)):
        for load in running:
            if load.relay.name in rounds:
                rounds[load.relay.name].append(load.open(count, parallel=case.parallel, stage=case.stage))
                load.close()
                _wait_quiet(load)
    return rounds


def _wait_quiet(load: Load) -> None:
    """Until the relay has cleaned up behind the clients: it must not do so in the next one's turn."""
    pids = [*load.relay.pids(), *(node.pid for node in load.relay.nodes)]
    limit = time.monotonic() + _CLOSED_SECONDS
    used = -1
    while time.monotonic() < limit:
        before, used = used, sum(machine.cpu_ns(pid) for pid in pids)
        if 0 <= used - before < 2_000_000 and before >= 0:
            return
        time.sleep(0.2)


def _add_rows(table: Table, rounds: Rounds, case: _Case, setup: Setup) -> None:
    cpu = _cpu(rounds)
    # Many at a time wait for each other: that is the rate once more, and no latency.
    added50, added99 = (_added(rounds, which) if case.parallel == 1 else {} for which in ("p50", "p99"))
    for name, measured in rounds.items():
        mine = cpu.get(name)
        ratios = [ratio(mine, cpu.get(peer)) if peer != name else None for peer in _PEERS]
        relay_busy = Spread.of(m.relay_busy for m in measured).median
        load_busy = Spread.of(m.load_busy(shared=setup.cores.shared) for m in measured).median
        table.add(
            case.name,
            name,
            mine.show(1, 2) if mine else None,
            *(f"{found.median:.2f}" if found else None for found in ratios),
            Spread.of(m.rate for m in measured).show(1, 0),
            Spread.of(m.p50 for m in measured).show(1e3, 2),
            Spread.of(m.p99 for m in measured).show(1e3, 2),
            added50[name].show(1, 2) if name in added50 else None,
            added99[name].show(1, 2) if name in added99 else None,
            f"{Spread.of(m.tickets / m.count for m in measured).median:.0f}" if mine and case.tls else None,
            f"{relay_busy:.0%}" if mine else None,
            f"{load_busy:.0%}",
            bottleneck(relay_busy, load_busy) if case.parallel > 1 else "one at a time",
        )


def _cpu(rounds: Rounds) -> dict[str, Spread]:
    """Milliseconds for each connection, of each relay."""
    return {
        name: Spread.of(m.cpu_each * 1e3 for m in measured) for name, measured in rounds.items() if name != Kind.DIRECT
    }


def _added(rounds: Rounds, which: str) -> dict[str, Spread]:
    """Milliseconds above 'direct'; empty where that was not measured."""
    times = {name: Spread.of(getattr(m, which) * 1e3 for m in measured) for name, measured in rounds.items()}
    direct = times.pop(Kind.DIRECT, None)
    return {name: spread.minus(direct) for name, spread in times.items()} if direct is not None else {}


def _add_results(report: Report, cpu_bars: Bars, added_bars: Bars, rounds: Rounds, case: _Case) -> None:
    """Goals, plots and data."""
    cpu, added = _cpu(rounds), _added(rounds, "p50")
    if case.parallel == 1:
        mine = added.get(Kind.PROXY)
        report.goals.append(Goal(f"{case.name}: p50 added to it on loopback", _ADDED_GOAL_MS, mine, " ms"))
        added_bars.add_group(case.name.partition(",")[0], dict(added), _ADDED_GOAL_MS)
    else:
        theirs, limit = cpu.get(Kind.HAPROXY), None
        if case.tls and case.stage == "login":
            found = ratio(cpu.get(Kind.PROXY), theirs)
            report.goals.append(Goal(f"{case.name}: CPU of the relay / haproxy", _CPU_GOAL, found, " x"))
            limit = _CPU_GOAL * theirs.median if theirs else None
        cpu_bars.add_group(case.name, dict(cpu), limit)
    report.data += [
        {**dataclasses.asdict(case), "relay": name, **dataclasses.asdict(m)}
        for name, measured in rounds.items()
        for m in measured
    ]
