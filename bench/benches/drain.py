"""Thousands of busy sessions with numbered messages, one node drained: moved, time, lost, twice, CPU.

Every client says something every second and gets it back from its node, before, during and after. One in five has never
heard of connection transfer and refuses, so it is moved by a stream error.
"""

from __future__ import annotations

import time
from typing import Final

from bench import machine
from bench.fleet import Fleet, fleet, percentile, wait_moved
from bench.options import Options, new_setup, tell
from bench.relays import max_sessions
from bench.report import Report, Spread, Table, columns

_REFUSING: Final = 0.2
_INTERVAL_SECONDS: Final = 1.0
_RATE: Final = 500.0
_QUICK_RATE: Final = 100.0
_COLUMNS: Final = columns(
    "sessions | rate/s | asked | refused | moved | seconds | messages | echoed | returned | lost | of them late |"
    " twice | unasked ends"
)
_TIME_COLUMNS: Final = columns(
    "sessions | without a session p50 ms | p99 ms | max ms | echo before p50 ms | p99 ms | echo during p50 ms |"
    " p99 ms | proxy CPU before | during | crowd CPU | CPU ms per move"
)
_NOTES: Final = (
    "one client in five refuses connection transfer and is moved by a stream error",
    "returned: came back as an error of type wait, so the client knows",
    "late: read by the proxy behind its own last word to a client that was being told to go; the proxy logs them",
    "lost minus late has to be 0, and twice has to be 0",
    "CPU per move: what the proxy used during the drain above its usual, over the clients moved; logins are in it",
)


def run(options: Options) -> Report:
    report = Report("drain", options.quick, machine.describe())
    # Half of the refusing clients' connections overlap with their next ones.
    sessions = min(options.sessions or (500 if options.quick else 5_000), int(max_sessions() * 0.9))
    counts, times = Table("Draining a node", _COLUMNS), Table("Draining a node: times", _TIME_COLUMNS)
    for _ in range(options.rounds_or(3, 1)):
        with new_setup(options, tls=options.tls) as setup, fleet(setup, refusing=_REFUSING) as running:
            _measure(running, sessions, options, report, counts, times)
    counts.notes += list(_NOTES)
    report.tables += [counts, times]
    return report


def _measure(running: Fleet, sessions: int, options: Options, report: Report, counts: Table, times: Table) -> None:
    rate = _QUICK_RATE if options.quick else _RATE
    tell(f"drain: {sessions} logins")
    running.log_in(sessions)
    running.add_node()
    running.crowd.order(talk=sessions, interval=_INTERVAL_SECONDS)
    time.sleep(2 * _INTERVAL_SECONDS)
    running.crowd.order(reset=1)
    usual, usual_seconds = _cpu_over(running, options.seconds_or(5.0, 2.0))
    before = running.crowd.order(report=1)
    tell("drain: draining")
    cpu, start = running.proxy.cpu_ns(), time.monotonic()
    row = running.drain(rate)
    seconds = time.monotonic() - start
    cpu_during = (running.proxy.cpu_ns() - cpu) / 1e9
    crowd = (running.crowd.order(report=1).cpu - before.cpu) / seconds
    wait_moved(running, sessions)
    after = running.crowd.order(hush=1)
    late = running.late()
    per_move = (cpu_during - usual / usual_seconds * seconds) / after.moved if after.moved else float("nan")
    asked = [row["asked"], row["refused"], row["moved"], f"{seconds:.1f}"]
    # What is neither answered nor over after ten quiet seconds is lost as well.
    lost = after.lost + after.outstanding
    found = [after.sent, after.echoed, after.returned, lost, late, after.twice, after.failed]
    counts.add(f"{sessions:,}", f"{rate:g}", *asked, *found)
    shares = f"{usual / usual_seconds:.0%}", f"{cpu_during / seconds:.0%}", f"{crowd:.0%}", f"{per_move * 1e3:.2f}"
    during = after.latencies[len(before.latencies) :]
    slowest = f"{max(after.gaps, default=0.0) * 1e3:,.0f}"
    times.add(f"{sessions:,}", *_ms(after.gaps), slowest, *_ms(before.latencies), *_ms(during), *shares)
    report.data.append(
        {"sessions": sessions, "rate": rate, "row": row, "seconds": seconds, "late": late, "cpu_per_move": per_move}
        | {name: getattr(after, name) for name in ("sent", "echoed", "returned", "lost", "twice", "moved", "failed")}
        | {"gaps": after.gaps, "usual_cpu": usual / usual_seconds, "cpu_during": cpu_during}
    )


def _cpu_over(running: Fleet, seconds: float) -> tuple[float, float]:
    """CPU seconds of the proxy over that long, and how long it was."""
    cpu, start = running.proxy.cpu_ns(), time.monotonic()
    time.sleep(seconds)
    return (running.proxy.cpu_ns() - cpu) / 1e9, time.monotonic() - start


def _ms(values: list[float]) -> list[str]:
    return [Spread.of([percentile(values, share)]).show(1e3, 1) for share in (0.5, 0.99)]
