"""Busy sessions while the proxy is replaced by a new process, and clients that come all the time.

Nobody may be refused or reset, and no message be lost or come twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Final

from bench.arrivals import Arrivals
from bench.fleet import Fleet, fleet, wait_moved
from bench.options import Options, new_report, new_setup, tell
from bench.programs import wait_for
from bench.relays import max_sessions
from bench.report import Goal, Report, Table, columns
from bench.spread import Spread

_SESSIONS: Final = (2_000, 4_000)
_QUICK_SESSIONS: Final = (300,)
_ARRIVALS: Final = 500.0
_QUICK_ARRIVALS: Final = 50.0
_INTERVAL_SECONDS: Final = 2.0
_RATE: Final = 250.0
_COLUMNS: Final = columns(
    "sessions | workers | rate/s | come/s | came | answered | refused | reset | no answer | slowest ms | seconds |"
    " moved | messages | lost | of them late | twice"
)
_NOTES: Final = (
    "came: clients that connect from before the new process starts until the old one ends",
    "lost minus late has to be 0, and twice has to be 0",
)


def run(options: Options) -> Report:
    report = new_report("upgrade", options)
    # Both processes have the descriptors of their own sessions; the crowd has old and new connections for a moment.
    most = int(max_sessions() * 0.8)
    wanted = (options.sessions,) if options.sessions else _QUICK_SESSIONS if options.quick else _SESSIONS
    table = Table("Replacing the proxy", _COLUMNS)
    refused, lost = [], []
    for sessions in [min(each, most) for each in wanted for _ in range(options.rounds_or(1, 1))]:
        with new_setup(options, tls=options.tls, workers=2) as setup, fleet(setup, sessions) as running:
            rate, arriving = options.rate or _RATE, _QUICK_ARRIVALS if options.quick else _ARRIVALS
            tell(f"upgrade: {sessions} logins")
            running.log_in(sessions)
            running.add_nodes()
            running.crowds.talk(sessions, interval=_INTERVAL_SECONDS)
            time.sleep(_INTERVAL_SECONDS)
            tell(f"upgrade: a new process, {rate:g} clients a second move")
            start = time.monotonic()
            with _successor_ended(running):
                with Arrivals(running.port, arriving) as arrivals:
                    time.sleep(1.0)
                    running.order("set", "transfer-rate", f"{rate:g}")
                    running.order("set", "hard-stop-after", "10m")
                    running.order("upgrade")
                    seconds = time.monotonic() - start
                    time.sleep(1.0)
                wait_moved(running, sessions)
                counted, late, came = running.crowds.hush(), running.late(), arrivals.counts
            table.add(
                *(
                    f"{sessions:,}",
                    setup.workers,
                    f"{rate:g}",
                    f"{arriving:g}",
                    came.came,
                    came.answered,
                    came.refused,
                    came.reset,
                ),
                *(came.unanswered, f"{came.slowest * 1e3:,.0f}", f"{seconds:.1f}", counted.moved),
                *(counted.sent, counted.missing, late, counted.twice),
            )
            refused.append(came.came - came.answered)
            lost.append(counted.missing - late + counted.twice)
            cores = str(setup.cores)
    table.notes += [*_NOTES, cores]
    report.tables.append(table)
    report.goals += [
        Goal("clients refused, reset or left without an answer", 0, Spread.of(refused)),
        Goal("messages lost or come twice, but for those that crossed with the last word", 0, Spread.of(lost)),
    ]
    return report


@contextlib.contextmanager
def _successor_ended(running: Fleet) -> Iterator[None]:
    """End the process that has taken the proxy's place, behind the block."""
    first = running.proxy.pid
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            pid = json.loads(running.order("show", "info", "--json"))["pid"]
            if pid != first:
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGTERM)
                wait_for("its end", running.proxy, lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip()[:1] not in ("", "Z")
