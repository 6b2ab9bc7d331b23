"""WebSocket: CPU per round trip beside nginx and trio-websocket's server, plain and TLS, and memory when idle.

A stanza of 333 bytes goes from a client over WebSocket through the relay to a node and comes back. The proxy turns it
into a plain stream for its node and checks it; nginx passes the frames on to a node that speaks WebSocket, and does not
look inside; a relay on trio-websocket's server is the least that can be written with it (``trio_relay.py``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Final

from bench import machine
from bench.load import STANZA_BYTES, Load, Measured
from bench.options import Options, loads, new_report, new_setup, tell
from bench.plots import Bars, Plot
from bench.relays import Kind, max_sessions
from bench.report import Goal, Report, Table, columns
from bench.spread import Spread, ratio

_SESSIONS: Final = 1_000
_QUICK_SESSIONS: Final = 200
_KINDS: Final = (Kind.PROXY, Kind.NGINX, Kind.TRIO)
_WARM_SECONDS: Final = 0.2
_LIMITS: Final = {Kind.NGINX: 1.3, Kind.TRIO: 0.25}
"""CPU per round trip, of what theirs takes."""
_IDLE_LIMIT: Final = 1.2
"""Memory of an idle session on TLS, of what the proxy's own on TCP takes."""
_FIRST: Final = 100
_SETTLE_SECONDS: Final = 0.5

_COLUMNS: Final = columns(
    "relay | traffic | sessions | CPU µs per round trip | / nginx | / trio-websocket | round trips/s | relay's core"
)
_IDLE_COLUMNS: Final = columns("proxy's clients | sessions | idle: PSS KiB | / TCP")


def run(options: Options) -> Report:
    report = new_report("websocket", options)
    sessions = min(options.sessions or (_QUICK_SESSIONS if options.quick else _SESSIONS), max_sessions() - _FIRST)
    table = Table(f"WebSocket: CPU per round trip of {STANZA_BYTES} bytes, one in flight", _COLUMNS)
    bars = Bars("1 in flight", "µs of CPU")
    missing: list[str] = []
    for tls in (False, True):
        _measure(table, bars, report, options, sessions, missing, tls=tls)
    table.notes += ["nginx passes frames on and does not look inside; its node speaks WebSocket", *missing]
    idle = Table("WebSocket: memory of the proxy for an idle session", _IDLE_COLUMNS)
    for tls in (False, True):
        _measure_idle(idle, report, options, sessions, tls=tls)
    report.tables += [table, idle]
    report.plots.append(Plot("cpu", "WebSocket: CPU for a round trip of one stanza", [bars]))
    return report


def _measure(
    table: Table, bars: Bars, report: Report, options: Options, sessions: int, missing: list[str], *, tls: bool
) -> None:
    word = "TLS" if tls else "plain"
    count, seconds = options.rounds_or(5, 2), options.seconds_or(0.8, 0.4)
    with contextlib.ExitStack() as stack:
        setup = dataclasses.replace(stack.enter_context(new_setup(options, tls=tls)), websocket=True)
        running = stack.enter_context(loads(_KINDS, setup, missing))
        for load in running:
            tell(f"websocket, {word}: {load.relay.name}, {sessions} sessions")
            load.open(sessions, stage="online")
        rounds: dict[str, list[Measured]] = {load.relay.name: [] for load in running}
        for _ in range(count):
            for load in running:
                rounds[load.relay.name].append(load.run(warm=_WARM_SECONDS, seconds=seconds, in_flight=1))
        if not tls:
            table.notes.append(str(setup.cores))
    cpu = {name: Spread.of(each.cpu_each * 1e6 for each in mine) for name, mine in rounds.items()}
    for name, mine in rounds.items():
        ratios = [ratio(cpu[name], cpu.get(peer)) if peer != name else None for peer in _LIMITS]
        table.add(
            *(name, word, f"{sessions:,}", cpu[name].show()),
            *(f"{found.median:.2f}" if found else None for found in ratios),
            Spread.of(each.rate for each in mine).show(1, 0),
            f"{Spread.of(each.relay_busy for each in mine).median:.0%}",
        )
        report.data.append({"traffic": word, "relay": name, "rounds": [dataclasses.asdict(each) for each in mine]})
    for peer, limit in _LIMITS.items():
        found = ratio(cpu[Kind.PROXY], cpu.get(peer)) if Kind.PROXY in cpu else None
        report.goals.append(Goal(f"{word}, {sessions:,} sessions: CPU per round trip / {peer}", limit, found, " x"))
    bars.add_group(word, dict(cpu), None)


def _measure_idle(table: Table, report: Report, options: Options, sessions: int, *, tls: bool) -> None:
    word = "TLS" if tls else "plain"
    sizes: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(options.rounds_or(3, 1)):
        for websocket in sizes:
            tell(f"websocket, {word}: idle sessions, {'WebSocket' if websocket else 'TCP'}")
            sizes[websocket].append(_idle_kib(options, sessions, tls=tls, websocket=websocket))
    spreads = {websocket: Spread.of(found) for websocket, found in sizes.items()}
    found = ratio(spreads[True], spreads[False])
    for websocket, spread in spreads.items():
        name = f"{'WebSocket' if websocket else 'TCP'}, {word}"
        table.add(name, f"{sessions:,}", spread.show(), f"{found.median:.2f}" if websocket and found else None)
        report.data.append({"traffic": word, "websocket": websocket, "idle KiB": sizes[websocket]})
    if tls:
        report.goals.append(Goal("TLS: PSS of an idle session / the same on TCP", _IDLE_LIMIT, found, " x"))


def _idle_kib(options: Options, sessions: int, *, tls: bool, websocket: bool) -> float:
    """Of one session that has carried a stanza."""
    with contextlib.ExitStack() as stack:
        setup = dataclasses.replace(stack.enter_context(new_setup(options, tls=tls)), websocket=websocket)
        (load,) = stack.enter_context(loads([Kind.PROXY], setup, []))
        _open(load, _FIRST)
        before = machine.memory(load.relay.pids())
        _open(load, sessions)
        return ((machine.memory(load.relay.pids()) - before) / sessions).pss


def _open(load: Load, count: int) -> None:
    load.open(count, stage="online")
    load.run(warm=0.0, seconds=0.3, in_flight=1)
    time.sleep(_SETTLE_SECONDS)
