"""Everybody comes at once, with and without ``logins-per-second``: how fast logins reach the node.

All clients connect at the same moment, as they do when a network or another proxy comes back. A client is bound when
its login reached the node, but for the few milliseconds that a login takes.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Final

from bench.fleet import bottleneck, fleet, most_sessions
from bench.options import Options, new_report, new_setup, tell
from bench.pace import pace_of, since_first
from bench.plots import Lines, Plot
from bench.report import Goal, Report, Table, columns
from bench.spread import Spread, percentile

_WORKERS: Final = 2
_SESSIONS: Final = 10_000
_RATE: Final = 500.0
_QUICK_RATE: Final = 300.0
_BURST_SECONDS: Final = 0.1
"""The proxy's: so much of the rate may come at once, in each worker."""
_HELD_GOAL: Final = 1.02
_COLUMNS: Final = columns(
    "clients | logins-per-second | workers | all bound after s | ideal | held/s | least in a second |"
    " most in a second | waited p50 s | p99 s | refused | proxy's CPU | load's CPU | bottleneck"
)
_NOTES: Final = (
    "held: logins a second from the second second on; ideal: what is left behind the burst, at the rate",
    "least and most: of the whole seconds between the first and the last one",
    "with workers each admits its share of the rate, to the clients that the kernel gives it: who has more of them "
    "takes longer, and the last clients come at less than the rate",
    "CPU: of one core; handshakes and logins are in it",
)


def run(options: Options) -> Report:
    report = new_report("admission", options)
    table = Table("A burst of logins", _COLUMNS)
    panels: dict[str, list[tuple[float, float]]] = {}
    most: list[float] = []
    rate = options.rate or (_QUICK_RATE if options.quick else _RATE)
    for limit in (None, rate):
        for _ in range(options.rounds_or(3, 1)):
            told = _measure(options, limit, rate, table, report)
            panels["no limit" if limit is None else f"{limit:g}/s"] = [
                (at, float(index)) for index, at in enumerate(told, 1)
            ][:: max(1, len(told) // 500)]
            if limit is not None:
                most.append(pace_of(told, limit, _BURST_SECONDS).held / limit)
    table.notes += _NOTES
    report.tables.append(table)
    report.goals.append(Goal("logins a second that reach the node / logins-per-second", _HELD_GOAL, Spread.of(most)))
    report.plots.append(
        Plot("burst", "Everybody comes at once", [Lines("logged in, so far", "seconds", "clients", panels)])
    )
    return report


def _measure(options: Options, limit: float | None, rate: float, table: Table, report: Report) -> list[float]:
    """One burst: when each client was bound, after the first one."""
    proxy_options = (*options.proxy_options, "--admission-timeout", "10m", "--connections-per-address", "none")
    if limit is not None:
        proxy_options += ("--logins-per-second", f"{limit:g}")
    with new_setup(
        dataclasses.replace(options, proxy_options=proxy_options), tls=options.tls, workers=_WORKERS
    ) as setup:
        sessions = min(options.sessions or (1_000 if options.quick else _SESSIONS), most_sessions(setup.workers))
        with fleet(setup, sessions) as running:
            tell(f"admission: {sessions} logins at once, {f'{limit:g}/s' if limit else 'no limit'}")
            began, before = time.monotonic(), running.used()
            counted = running.log_in(sessions, parallel=sessions)
            used = running.used().since(before)
    told = since_first(counted.bound)
    waited = [at - began for at in counted.bound]
    pace = pace_of(told, limit or rate, _BURST_SECONDS)
    ideal = (sessions - limit * _BURST_SECONDS) / limit if limit is not None else None
    table.add(
        *(f"{sessions:,}", f"{limit:g}" if limit else "none", setup.workers, f"{told[-1]:.1f}"),
        *(f"{ideal:.1f}" if ideal is not None else None, f"{pace.held:.0f}", pace.least, pace.most),
        *(f"{percentile(waited, share):.1f}" for share in (0.5, 0.99)),
        *(counted.failed, f"{used.proxy:.0%}", f"{used.load:.0%}", bottleneck(used, len(setup.cores.relay))),
    )
    report.data.append({"sessions": sessions, "limit": limit, "told": told[:: max(1, len(told) // 2000)]})
    return told
