"""Thousands of busy sessions with numbered messages, one node drained: moved, time, lost, twice, CPU.

Every client says something every second and gets it back from its node, before, during and after. One in five has never
heard of connection transfer and refuses, so it is moved by a stream error.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from bench.fleet import Counted, Fleet, bottleneck, fleet, wait_moved
from bench.options import Options, new_report, new_setup, tell
from bench.pace import pace_panels, told_at
from bench.plots import Lines, Plot
from bench.relays import Setup, max_sessions
from bench.report import Goal, Report, Table, columns
from bench.spread import Spread, percentile

_WORKERS: Final = 2
_REFUSING: Final = 0.2
_INTERVAL_SECONDS: Final = 1.0
_RATE: Final = 250.0
_QUICK_RATE: Final = 100.0
_COLUMNS: Final = columns(
    "sessions | workers | rate/s | asked | refused | moved | seconds | messages | echoed | returned | lost |"
    " of them late | twice | unasked ends"
)
_TIME_COLUMNS: Final = columns(
    "sessions | without a session p50 ms | p99 ms | max ms | echo before p50 ms | p99 ms | echo during p50 ms |"
    " p99 ms | proxy's CPU before | during | CPU ms per move | load's CPU | bottleneck"
)
_NOTES: Final = (
    "one client in five refuses connection transfer and is moved by a stream error",
    "returned: came back as an error of type wait, so the client knows",
    "late: read by the proxy behind its own last word to a client that was being told to go; the proxy logs them",
    "lost minus late has to be 0, and twice has to be 0",
    "CPU per move: what the proxy used during the drain, less what that many messages cost before; logins are in it",
    "CPU: of one core; bottleneck 'machine': all cores were used up, and nothing could go any faster",
)


def run(options: Options) -> Report:
    report = new_report("drain", options)
    # Half of the refusing clients' connections overlap with their next ones.
    sessions = min(options.sessions or (500 if options.quick else 5_000), int(max_sessions() * 0.9))
    counts, times = Table("Draining a node", _COLUMNS), Table("Draining a node: times", _TIME_COLUMNS)
    lost, twice, unasked = [], [], []
    for _ in range(options.rounds_or(2, 1)):
        with new_setup(options, tls=options.tls, workers=_WORKERS) as setup:
            with fleet(setup, sessions, refusing=_REFUSING) as running:
                counted, late = _measure(running, sessions, setup, options, report, counts, times)
            cores = str(setup.cores)
        lost.append(counted.missing - late)
        twice.append(counted.twice)
        unasked.append(counted.failed)
    counts.notes += [*_NOTES, cores]
    report.tables += [counts, times]
    report.goals += [
        Goal("messages lost, but for those that crossed with the last word", 0, Spread.of(lost)),
        Goal("messages come twice", 0, Spread.of(twice)),
        Goal("sessions that ended unasked", 0, Spread.of(unasked)),
    ]
    return report


def _measure(
    running: Fleet, sessions: int, setup: Setup, options: Options, report: Report, counts: Table, times: Table
) -> tuple[Counted, int]:
    """One round: what the crowd counted, and how many stanzas the proxy calls late."""
    rate = options.rate or (_QUICK_RATE if options.quick else _RATE)
    tell(f"drain: {sessions} logins")
    running.log_in(sessions)
    running.add_nodes()
    running.crowds.talk(sessions, interval=_INTERVAL_SECONDS)
    time.sleep(2 * _INTERVAL_SECONDS)
    running.crowds.reset()
    calm = running.used()
    time.sleep(options.seconds_or(4.0, 2.0))
    before, start = running.crowds.report(), running.used()
    tell(f"drain: draining at {rate:g}/s")
    row = running.drain(rate)
    usual, during = start.since(calm), running.used().since(start)
    echoed = running.crowds.report().echoed - before.echoed
    wait_moved(running, sessions)
    after = running.crowds.hush()
    late = running.late()
    for_messages = usual.proxy * usual.at / before.echoed * echoed if before.echoed else float("nan")
    per_move = (during.proxy * during.at - for_messages) / after.moved if after.moved else float("nan")
    counts.add(
        *(f"{sessions:,}", setup.workers, f"{rate:g}", row["asked"], row["refused"], row["moved"], f"{during.at:.1f}"),
        # What is neither answered nor over after ten quiet seconds is lost as well.
        *(after.sent, after.echoed, after.returned, after.missing, late, after.twice, after.failed),
    )
    echoes = {"before": before.latencies, "during": after.latencies[len(before.latencies) :]}
    times.add(
        *(f"{sessions:,}", *_ms(after.gaps), f"{max(after.gaps, default=0.0) * 1e3:,.0f}"),
        *(cell for latencies in echoes.values() for cell in _ms(latencies)),
        *(f"{usual.proxy:.0%}", f"{during.proxy:.0%}", f"{per_move * 1e3:.2f}"),
        *(f"{during.load:.0%}", bottleneck(during, len(setup.cores.relay))),
    )
    told = told_at(after)
    report.data.append(
        {"sessions": sessions, "rate": rate, "row": row, "seconds": during.at, "late": late, "cpu_per_move": per_move}
        | {name: getattr(after, name) for name in ("sent", "echoed", "returned", "lost", "twice", "moved", "failed")}
        | {
            "told": told,
            "gaps": [round(gap, 4) for gap in after.gaps],
            "usual_cpu": usual.proxy,
            "cpu_during": during.proxy,
        }
    )
    report.plots = [_plot(sessions, rate, told, after.gaps, echoes)]  # of the last round
    return after, late


def _ms(values: Sequence[float]) -> list[str]:
    return [f"{percentile(values, share) * 1e3:,.1f}" for share in (0.5, 0.99)]


def _plot(
    sessions: int, rate: float, told: Sequence[float], gaps: Sequence[float], echoes: dict[str, list[float]]
) -> Plot:
    panels = [
        pace_panels(told, rate)[0],
        Lines("time without a session", "ms", "% of clients", {"proxy": _shares(gaps)}),
        Lines("echo of a message", "ms", "% of messages", {when: _shares(of) for when, of in echoes.items()}),
    ]
    return Plot("drain", f"{sessions:,} busy sessions drained at {rate:g} a second", panels, across=3)


def _shares(seconds: Sequence[float]) -> list[tuple[float, float]]:
    """The share, in percent, that took at most so many milliseconds; up to the 99th, for the last ones are far off."""
    ordered = sorted(seconds)
    ordered = ordered[: max(1, int(len(ordered) * 0.99))]
    step = max(1, len(ordered) // 500)
    return [(at * 1e3, 100.0 * index / max(1, len(seconds))) for index, at in list(enumerate(ordered, 1))[::step]]
