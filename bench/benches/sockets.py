"""As many concurrent sessions as the limits let: established, held, traffic on 1 % of them, drained at a set rate.

Clients come from several loopback addresses and reach the proxy's workers as the kernel spreads them. The rate is
judged by when the clients are told, not by what the proxy says: how many in each second, and how far behind or ahead of
the plan the worst of them was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from bench import fleet, machine
from bench.fleet import SOURCES, Fleet, wait_moved
from bench.options import Options, new_report, new_setup, tell
from bench.pace import pace_of, pace_panels, told_at
from bench.plots import Plot
from bench.programs import Failed
from bench.relays import max_sessions
from bench.report import Goal, Report, Table, columns
from bench.spread import Spread, percentile

_WORKERS: Final = 3
"""As many as it takes to use up the ports towards one address of one node."""
_SESSIONS_GOAL: Final = 18_000
_RATE: Final = 300.0
_COLUMNS: Final = columns(
    "sessions | in each worker | held s | still there | logins/s | KiB each (PSS) | idle CPU | messages | lost |"
    " twice | echo p50 ms | p99 ms"
)
_DRAIN_COLUMNS: Final = columns(
    "sessions | rate wanted/s | rate held/s | in a second: min | max | off the plan: behind ms | ahead ms |"
    " first second | asked | moved | seconds | ideal | lost | twice | unasked ends |"
    " proxy's CPU | load's CPU | bottleneck"
)
_NOTES: Final = (
    "ideal: sessions over rate, less the half second's worth that may go at once",
    "rate held, in a second: from a second after the first client was told on, in whole seconds",
    "CPU: of one core; bottleneck 'machine': all cores were used up, and nothing could go any faster",
    "off the plan: the plan is half a second's worth at once and then one every 1/rate seconds",
)


def run(options: Options) -> Report:
    report = new_report("sockets", options)
    workers = options.workers or _WORKERS
    most = fleet.most_sessions(workers)
    sessions = min(options.sessions or (1_000 if options.quick else most), most)
    held, drained = Table("Many sockets: held", _COLUMNS), Table("Many sockets: drained", _DRAIN_COLUMNS)
    with new_setup(options, tls=options.tls, workers=workers) as setup, fleet.fleet(setup, sessions) as running:
        _hold(running, sessions, options, report, held)
        _drain(running, sessions, setup.cores.relay, options, report, drained)
        held.notes += [*_limits(workers, sessions), str(setup.cores)]
    drained.notes += list(_NOTES)
    report.tables += [held, drained]
    if not options.quick and options.sessions is None:
        established = Spread.of([sessions])
        goal = Goal(f"sessions at once, through {workers} workers", _SESSIONS_GOAL, established, at_least=True)
        report.goals.insert(0, goal)
    return report


def _limits(workers: int, sessions: int) -> list[str]:
    processes = fleet.processes_for(sessions)
    descriptors, each, ports = machine.descriptor_limit(), max_sessions(), len(machine.local_ports())
    return [
        f"descriptors: at most {descriptors:,} for one process, two a session, so {each:,} sessions in a worker:"
        f" {each * workers:,} in {workers}",
        f"ports: {ports:,} from the proxy's address to one node's, so no more sessions there whatever the workers",
        f"so {fleet.most_sessions(workers):,} here, with room for connections to be spread unevenly",
        f"clients are {processes} processes with {SOURCES} addresses each; {processes} processes for each node",
        "idle CPU: of one core, by the proxy, with all sessions silent",
    ]


def _hold(running: Fleet, sessions: int, options: Options, report: Report, table: Table) -> None:
    tell(f"sockets: {sessions} logins")
    start = time.monotonic()
    first = sessions // 10  # they bring each worker to its usual size
    running.log_in(first)
    before = machine.memory(running.proxy.family())
    running.log_in(sessions - first)
    opened = time.monotonic() - start
    time.sleep(1.0)
    size = (machine.memory(running.proxy.family()) - before) / (sessions - first)
    tell("sockets: holding")
    seconds = options.seconds_or(6.0, 2.0)
    silent = running.used()
    time.sleep(seconds)
    idle = running.used().since(silent).proxy
    there, spread = running.show_nodes().get("a", 0), running.show_workers()
    running.crowds.reset()
    running.crowds.talk(max(1, sessions // 100), interval=0.2)
    time.sleep(seconds)
    counted = running.crowds.hush()
    table.add(
        f"{sessions:,}",
        " + ".join(f"{each:,}" for each in spread),
        f"{seconds:.0f}",
        f"{there:,}",
        f"{sessions / opened:,.0f}",
        f"{size.pss:.1f}",
        f"{idle:.1%}",
        f"{counted.sent:,}",
        counted.missing,
        counted.twice,
        *(f"{percentile(counted.latencies, share) * 1e3:.2f}" for share in (0.5, 0.99)),
    )
    report.goals.append(Goal("held: messages lost or come twice", 0, Spread.of([counted.missing + counted.twice])))
    report.data.append(
        {"sessions": sessions, "workers": spread, "held": seconds, "there": there, "opened": opened, "idle": idle}
    )
    if there != sessions:
        raise Failed(f"{sessions} sessions were opened, {there} are there: {running.proxy.last_words()}")


def _drain(running: Fleet, sessions: int, cores: Sequence[int], options: Options, report: Report, table: Table) -> None:
    rate = options.rate or _RATE
    running.add_nodes()
    running.crowds.reset()
    running.crowds.talk(max(1, sessions // 100), interval=0.2)
    tell(f"sockets: draining at {rate:g}/s")
    before = running.used()
    row = running.drain(rate)
    used = running.used().since(before)
    wait_moved(running, sessions)
    counted = running.crowds.hush()
    told = told_at(counted)
    pace = pace_of(told, rate)
    table.add(
        f"{sessions:,}",
        f"{rate:g}",
        f"{pace.held:.1f}",
        pace.least,
        pace.most,
        f"{pace.behind * 1e3:.0f}",
        f"{pace.ahead * 1e3:.0f}",
        pace.first,
        row["asked"],
        row["moved"],
        f"{used.at:.1f}",
        f"{max(0.0, sessions / rate - 0.5):.1f}",
        counted.missing,
        counted.twice,
        counted.failed,
        f"{used.proxy:.0%}",
        f"{used.load:.0%}",
        fleet.bottleneck(used, len(cores)),
    )
    report.goals += [
        Goal("drained: messages lost or come twice", 0, Spread.of([counted.missing + counted.twice])),
        Goal("drained: sessions that ended unasked", 0, Spread.of([counted.failed])),
    ]
    report.data.append({"rate": rate, "seconds": used.at, "row": row, "told": told, "lost": counted.missing})
    report.plots.append(Plot("drain", f"{sessions:,} sessions drained at {rate:g} a second", pace_panels(told, rate)))
