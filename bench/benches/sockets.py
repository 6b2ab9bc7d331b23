"""As many concurrent sessions as the limits let: established, held, traffic on 1 % of them, drained at a set rate.

Clients come from several loopback addresses. The rate is judged by when the clients are told, not by what the proxy
says: how many in each second, and how far behind or ahead of the plan the worst of them was.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from bench import machine
from bench.fleet import SOURCES, Counted, Fleet, fleet, percentile, wait_moved
from bench.options import Options, new_setup, tell
from bench.programs import Failed
from bench.relays import max_sessions
from bench.report import Report, Spread, Table, columns

_SPARE_OF_ONE: Final = 300
"""Descriptors that a node and the crowd, one process each, keep for other things than sessions."""
_RATE: Final = 500.0
_QUICK_RATE: Final = 200.0
_COLUMNS: Final = columns(
    "sessions | workers | held s | still there | logins/s | KiB each (PSS) | idle CPU | messages | lost | twice |"
    " echo p50 ms | p99 ms"
)
_DRAIN_COLUMNS: Final = columns(
    "sessions | rate wanted/s | rate held/s | in a second: min | max | off the plan: behind ms | ahead ms |"
    " first second | asked | moved | seconds | ideal | lost | unasked ends |"
    " proxy's core | crowd's core"
)
_NOTES: Final = (
    "ideal: sessions over rate, less the half second's worth that may go at once",
    "rate held, in a second: from a second after the first client was told on, in whole seconds",
    "a crowd, or a proxy, that used its core up could not go any faster: then the rate is its own",
    "off the plan: the plan is half a second's worth at once and then one every 1/rate seconds",
)


@dataclass(frozen=True, slots=True)
class _Pace:
    """How a rate was held; see :data:`_NOTES`. Seconds."""

    held: float
    least: int
    most: int
    behind: float
    ahead: float
    first: int


def run(options: Options) -> Report:
    report = Report("sockets", options.quick, machine.describe())
    most = min(max_sessions() * options.workers, machine.descriptor_limit() - _SPARE_OF_ONE)
    sessions = min(options.sessions or (1_000 if options.quick else most), most)
    held, drained = Table("Many sockets: held", _COLUMNS), Table("Many sockets: drained", _DRAIN_COLUMNS)
    with new_setup(options, tls=options.tls) as setup, fleet(setup) as running:
        _hold(running, sessions, options, report, held)
        _drain(running, sessions, options, report, drained)
    held.notes += [
        f"descriptors: at most {machine.descriptor_limit():,} for one process, so {max_sessions():,} sessions in one"
        f" proxy process; {options.workers} of them here; clients from {SOURCES} loopback addresses",
        "idle CPU: of one core, by the proxy, with all sessions silent",
    ]
    drained.notes += list(_NOTES)
    report.tables += [held, drained]
    return report


def _hold(running: Fleet, sessions: int, options: Options, report: Report, table: Table) -> None:
    tell(f"sockets: {sessions} logins")
    _, before = machine.memory_kib(running.proxy.family())
    start = time.monotonic()
    running.log_in(sessions)
    opened = time.monotonic() - start
    time.sleep(1.0)
    _, after = machine.memory_kib(running.proxy.family())
    tell("sockets: holding")
    seconds = options.seconds_or(20.0, 2.0)
    cpu = running.proxy.cpu_ns()
    time.sleep(seconds)
    idle = (running.proxy.cpu_ns() - cpu) / 1e9 / seconds
    there = running.show_nodes().get("a", 0)
    running.crowd.order(reset=1)
    running.crowd.order(talk=max(1, sessions // 100), interval=0.2)
    time.sleep(seconds)
    counted = running.crowd.order(hush=1)
    table.add(
        f"{sessions:,}",
        options.workers,
        f"{seconds:.0f}",
        f"{there:,}",
        f"{sessions / opened:,.0f}",
        f"{(after - before) / sessions:.1f}",
        f"{idle:.1%}",
        f"{counted.sent:,}",
        counted.lost + counted.outstanding,
        counted.twice,
        *(Spread.of([percentile(counted.latencies, share)]).show(1e3, 2) for share in (0.5, 0.99)),
    )
    report.data.append({"sessions": sessions, "held": seconds, "there": there, "opened": opened, "idle": idle})
    if there != sessions:
        raise Failed(f"{sessions} sessions were opened, {there} are there: {running.proxy.last_words()}")


def _drain(running: Fleet, sessions: int, options: Options, report: Report, table: Table) -> None:
    rate = _QUICK_RATE if options.quick else _RATE
    running.add_node()
    running.crowd.order(reset=1)
    before = running.crowd.order(talk=max(1, sessions // 100), interval=0.2)
    tell(f"sockets: draining at {rate:g}/s")
    start, cpu = time.monotonic(), running.proxy.cpu_ns()
    row = running.drain(rate)
    seconds = time.monotonic() - start
    crowd = running.crowd.order(report=1).cpu - before.cpu
    shares = f"{(running.proxy.cpu_ns() - cpu) / 1e9 / seconds:.0%}", f"{crowd / seconds:.0%}"
    wait_moved(running, sessions)
    counted = running.crowd.order(hush=1)
    pace = _pace(counted, rate)
    plan = f"{pace.behind * 1e3:.0f}", f"{pace.ahead * 1e3:.0f}", pace.first
    times = f"{seconds:.1f}", f"{max(0.0, sessions / rate - 0.5):.1f}"
    ends = counted.lost + counted.outstanding, counted.failed
    held = f"{pace.held:.1f}", pace.least, pace.most
    table.add(f"{sessions:,}", f"{rate:g}", *held, *plan, row["asked"], row["moved"], *times, *ends, *shares)
    asked = [at - counted.asked[0] for at in counted.asked]
    report.data.append({"rate": rate, "seconds": seconds, "row": row, "asked": asked, "lost": counted.lost})


def _pace(counted: Counted, rate: float) -> _Pace:
    """Against what the proxy promises: at most half a second's worth at once, and then one every 1/rate seconds."""
    burst = int(max(1.0, rate / 2))
    told = [at - counted.asked[0] for at in counted.asked]
    off = [at - (index - burst) / rate for index, at in enumerate(told) if index >= burst]
    steady = [at for at in told if at >= 1.0]
    if len(steady) < 2 or not off:
        return _Pace(float("nan"), 0, 0, 0.0, 0.0, len(told))
    in_second = [sum(second <= at < second + 1 for at in told) for second in range(1, int(told[-1]))] or [len(steady)]
    return _Pace(
        held=(len(steady) - 1) / (steady[-1] - steady[0]),
        least=min(in_second),
        most=max(in_second),
        behind=max(0.0, *off),
        ahead=max(0.0, -min(off)),
        first=len(told) - len(steady),
    )
