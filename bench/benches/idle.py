"""Memory per idle session, plain and TLS: fresh from the login, and after it has carried a stanza.

A first hundred sessions bring a program to its usual size; what the others add is divided by their number. The kernel's
buffers are in no process's size and are the same for all: two sockets a session.
"""

from __future__ import annotations

import contextlib
import time
from typing import Final

from bench import machine
from bench.load import Load
from bench.options import Options, loads, new_setup, tell
from bench.relays import Kind, max_sessions
from bench.report import Bars, Report, Spread, Table, columns

_KINDS: Final = (Kind.PROXY, Kind.HAPROXY, Kind.NGINX)
_FIRST: Final = 200
_SETTLE_SECONDS: Final = 1.0
_COLUMNS: Final = columns(
    "relay | traffic | sessions | fresh: PSS KiB | RSS KiB | used: PSS KiB | RSS KiB | used / haproxy | used / nginx |"
    " empty: PSS MiB"
)


def run(options: Options) -> Report:
    report = Report("idle", options.quick, machine.describe())
    sessions = min(options.sessions or (1_000 if options.quick else 4_000), max_sessions() - _FIRST)
    table = Table("Memory per idle session", _COLUMNS)
    bars = Bars("memory", "Memory per idle session", "KiB (PSS)", [], {})
    missing: list[str] = []
    for tls in (False, True):
        word = "TLS" if tls else "plain"
        with contextlib.ExitStack() as stack:
            running = stack.enter_context(loads(_KINDS, stack.enter_context(new_setup(options, tls=tls)), missing))
            figures = {}
            for load in running:
                tell(f"idle, {word}: {load.relay.name}, {sessions} sessions")
                figures[load.relay.name] = _measure(load, sessions)
        for name, mine in figures.items():
            ratios = [
                f"{mine['used'][1] / figures[peer]['used'][1]:.2f}" if _peer(name, peer, figures) else ""
                for peer in (Kind.HAPROXY, Kind.NGINX)
            ]
            (fresh_rss, fresh_pss), (used_rss, used_pss) = mine["fresh"], mine["used"]
            sizes = [f"{size:.1f}" for size in (fresh_pss, fresh_rss, used_pss, used_rss)]
            table.add(name, word, f"{sessions:,}", *sizes, *ratios, f"{mine['empty'][1] / 1024:.1f}")
            bars.series.setdefault(name, []).append(Spread.of([used_pss]))
            report.data.append({"traffic": word, "relay": name, "sessions": sessions, **mine})
        bars.groups = [*bars.groups, word]
    table.notes += [
        "RSS and PSS of the relay's processes together; each is measured once, for it hardly varies",
        *missing,
    ]
    report.tables.append(table)
    report.plots.append(bars)
    return report


def _peer(name: str, peer: Kind, figures: dict[str, dict[str, tuple[float, float]]]) -> bool:
    return name != peer and peer in figures


def _measure(load: Load, sessions: int) -> dict[str, tuple[float, float]]:
    """RSS and PSS in KiB: of the whole before anybody came, and per session."""
    empty = _memory(load)
    load.open(_FIRST)
    load.run(warm=0.0, seconds=0.2, in_flight=1)
    before = _memory(load)
    load.open(sessions)
    fresh = _per_session(before, _memory(load), sessions)
    load.run(warm=0.0, seconds=0.5 + sessions / 5_000, in_flight=1)
    return {"empty": empty, "fresh": fresh, "used": _per_session(before, _memory(load), sessions)}


def _memory(load: Load) -> tuple[float, float]:
    time.sleep(_SETTLE_SECONDS)
    return machine.memory_kib(load.relay.pids())


def _per_session(before: tuple[float, float], after: tuple[float, float], sessions: int) -> tuple[float, float]:
    return (after[0] - before[0]) / sessions, (after[1] - before[1]) / sessions
