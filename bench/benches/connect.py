"""TLS handshakes and full logins: how many per second, CPU for each, and how long one takes.

A full login is TCP, TLS 1.3, header, SASL PLAIN, header, bind. HAProxy and nginx pass the same bytes of it without
looking at them. Nobody resumes a TLS session. Opening is measured, closing is not.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench import machine
from bench.load import Load, Measured
from bench.options import Options, loads, new_setup, tell
from bench.relays import Kind, max_sessions
from bench.report import Bars, Report, Spread, Table, columns

_KINDS: Final = (Kind.PROXY, Kind.HAPROXY, Kind.NGINX, Kind.DIRECT)
_CLOSED_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class _Case:
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
    "what | relay | CPU ms each | / haproxy | / nginx | per second | p50 ms | p99 ms | added p50 ms | relay's core |"
    " load's core"
)
_NOTES: Final = (
    "'direct' is plain: what is 'added' to it behind TLS has the client's part of the handshake in it",
    "HAProxy and nginx send two session tickets after a handshake, the proxy one: all by their defaults",
    "handshake: HAProxy and nginx connect to the node after it, the proxy waits for the client's header",
)


def run(options: Options) -> Report:
    report = Report("connect", options.quick, machine.describe())
    table = Table("Connecting", _COLUMNS)
    bars = Bars("cpu", "CPU per connection", "ms", [], {})
    missing: list[str] = []
    for tls in (False, True):
        with contextlib.ExitStack() as stack:
            setup = stack.enter_context(new_setup(options, tls=tls))
            running = stack.enter_context(loads(_KINDS, setup, missing))
            for case in _CASES:
                if case.tls == tls:
                    tell(f"connect: {case.name}")
                    figures = _measure(running, case, options)
                    _add_rows(table, bars, case, figures, shared=setup.cores.shared)
                    report.data += _data(case, figures)
    table.notes += [*_NOTES, str(machine.cores()), *missing]
    report.tables.append(table)
    report.plots.append(bars)
    return report


def _measure(running: Sequence[Load], case: _Case, options: Options) -> dict[str, list[Measured]]:
    count = min(options.sessions or (200 if options.quick else 1_500), max_sessions())
    if case.parallel == 1:
        count = min(count, 300)
    figures: dict[str, list[Measured]] = {
        load.relay.name: [] for load in running if case.stage == "login" or load.relay.pids()
    }
    for _ in range(options.rounds_or(5, 2)):
        for load in running:
            if load.relay.name in figures:
                figures[load.relay.name].append(load.open(count, parallel=case.parallel, stage=case.stage))
                load.close()
                _wait_quiet(load)
    return figures


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


def _add_rows(table: Table, bars: Bars, case: _Case, figures: dict[str, list[Measured]], *, shared: bool) -> None:
    cpu = {name: Spread.of(measured.cpu_each for measured in rounds) for name, rounds in figures.items()}
    direct = figures.get(Kind.DIRECT)
    for name, rounds in figures.items():
        is_relay = name != Kind.DIRECT
        p50 = Spread.of(measured.p50 for measured in rounds)
        added = Spread.of(m.p50 - d.p50 for m, d in zip(rounds, direct, strict=True)) if direct and is_relay else None
        ratios = [
            f"{cpu[name].over(cpu[peer]):.2f}" if is_relay and peer in cpu and peer != name else None
            for peer in (Kind.HAPROXY, Kind.NGINX)
        ]
        table.add(
            case.name,
            name,
            cpu[name].show(1e3, 2) if is_relay else None,
            *ratios,
            Spread.of(measured.rate for measured in rounds).show(1, 0),
            p50.show(1e3, 2),
            Spread.of(measured.p99 for measured in rounds).show(1e3, 2),
            added.show(1e3, 2) if added else None,
            f"{Spread.of(measured.relay_busy for measured in rounds).median:.0%}" if is_relay else None,
            f"{Spread.of(measured.load_busy(shared=shared) for measured in rounds).median:.0%}",
        )
        if is_relay and case.parallel > 1:
            bars.series.setdefault(name, []).append(Spread.of(value * 1e3 for value in cpu[name].values))
    if case.parallel > 1:
        bars.groups = [*bars.groups, case.name]


def _data(case: _Case, figures: dict[str, list[Measured]]) -> list[dict[str, object]]:
    return [
        {
            "what": case.name,
            "relay": name,
            "cpu_ms": measured.cpu_each * 1e3,
            "per_second": measured.rate,
            "p50": measured.p50,
            "p99": measured.p99,
            "load_cpu": measured.load_cpu,
            "node_cpu": measured.node_cpu,
            "seconds": measured.seconds,
        }
        for name, rounds in figures.items()
        for measured in rounds
    ]
