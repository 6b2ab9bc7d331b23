"""CPU per round trip and round trips per second, plain and TLS; added latency at half load.

A stanza of 333 bytes goes from a client through the relay to a node and comes back. All relays have all their sessions
open all the time; in each round each has its turn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from bench import machine
from bench.load import STANZA_BYTES, Load, Measured
from bench.options import Options, loads, new_setup, tell
from bench.relays import Kind, Setup, max_sessions
from bench.report import Bars, Report, Spread, Table, columns

_SESSIONS: Final = (100, 1_000, 5_000)
_QUICK_SESSIONS: Final = (100, 1_000)
_IN_FLIGHT: Final = (1, 8)
_KINDS: Final = (Kind.PROXY, Kind.HAPROXY, Kind.NGINX, Kind.BARE, Kind.DIRECT)
_PEERS: Final = (Kind.HAPROXY, Kind.NGINX, Kind.BARE)
_BUSY: Final = 0.92
"""From this share of its core on a process is taken to be the bottleneck."""


@dataclass(slots=True)
class _Figures:
    """Of one relay in one setting, a value a round."""

    rounds: list[Measured] = field(default_factory=list)

    @property
    def cpu(self) -> Spread:
        return Spread.of(measured.cpu_each for measured in self.rounds)

    @property
    def rate(self) -> Spread:
        return Spread.of(measured.rate for measured in self.rounds)


def run(options: Options) -> Report:
    report = Report("relay", options.quick, machine.describe())
    for tls in (False, True):
        _run_one(options, tls, report)
    return report


def _run_one(options: Options, tls: bool, report: Report) -> None:
    word = "TLS" if tls else "plain"
    missing: list[str] = []
    cpu_table = Table(
        f"Relay, {word}: CPU per round trip of {STANZA_BYTES} bytes, and round trips per second", _COLUMNS
    )
    latency_table = Table(f"Relay, {word}: latency at half load", _LATENCY_COLUMNS)
    bars = Bars(f"cpu-{word}", f"Relay, {word}: CPU per round trip", "µs", [], {})
    with contextlib.ExitStack() as stack:
        setup = stack.enter_context(new_setup(options, tls=tls))
        running = stack.enter_context(loads(_KINDS, setup, missing))
        opened = 0
        for sessions in _sizes(options):
            tell(f"relay, {word}: {sessions} sessions")
            for load in running:
                load.open(sessions - opened)
            opened = sessions
            for in_flight in _IN_FLIGHT:
                figures = _take_turns(running, options, in_flight)
                _add_rows(cpu_table, bars, figures, sessions, in_flight, setup)
                report.data += _data(word, sessions, in_flight, figures)
                if in_flight == 1:
                    rate = min(figures[load.relay.name].rate.median for load in running if load.relay.pids()) / 2
                    _add_latency(latency_table, report, running, options, sessions, rate, word)
    cpu_table.notes += [str(setup.cores), *_NOTES, *missing]
    latency_table.notes += list(_LATENCY_NOTES)
    report.tables += [cpu_table, latency_table]
    report.plots.append(bars)


def _sizes(options: Options) -> list[int]:
    return [min(size, max_sessions()) for size in (_QUICK_SESSIONS if options.quick else _SESSIONS)]


def _take_turns(running: Sequence[Load], options: Options, in_flight: int) -> dict[str, _Figures]:
    figures = {load.relay.name: _Figures() for load in running}
    for _ in range(options.rounds_or(7, 2)):
        for load in running:
            measured = load.run(warm=0.3, seconds=options.seconds_or(2.0, 0.7), in_flight=in_flight)
            figures[load.relay.name].rounds.append(measured)
    return figures


# --- the tables

_COLUMNS: Final = columns(
    f"relay | sessions | in flight | CPU µs per round trip | {' | '.join(f'/ {peer}' for peer in _PEERS)} |"
    " round trips/s | relay's core | load's core | bottleneck"
)
_NOTES: Final = (
    "'direct' has no relay, and no TLS: the most this load and this node can do together",
    "a ratio is the median of the rounds' own ratios; below 1 the relay of the row needs less CPU",
    "8 in flight: what arrives together is answered together, so reads hold several stanzas",
    "bottleneck 'others': neither core was used up by the bench, so other processes of the machine were in the way",
    "bottleneck 'load': round trips/s are the load's, and the relay's CPU is that of a relay with pauses",
)
_LATENCY_COLUMNS: Final = columns(
    "relay | sessions | rate/s | p50 µs | p99 µs | added p50 µs | added p99 µs | added p99 / haproxy | max µs |"
    " unanswered"
)
_LATENCY_NOTES: Final = (
    "half load: half the round trips/s of the slowest relay here with one in flight, the same for all",
    "latency counts from when a stanza was due; 'added' is what the relay has above 'direct'",
)


def _add_rows(
    table: Table, bars: Bars, figures: dict[str, _Figures], sessions: int, in_flight: int, setup: Setup
) -> None:
    for name, mine in figures.items():
        is_relay = name != Kind.DIRECT
        ratios = [
            f"{mine.cpu.over(figures[peer].cpu):.2f}" if is_relay and peer in figures and peer != name else ""
            for peer in _PEERS
        ]
        relay_busy = Spread.of(measured.relay_busy for measured in mine.rounds).median
        load_busy = Spread.of(measured.load_busy(shared=setup.cores.shared) for measured in mine.rounds).median
        table.add(
            name,
            f"{sessions:,}",
            in_flight,
            mine.cpu.show(1e6) if is_relay else None,
            *ratios,
            mine.rate.show(1, 0),
            f"{relay_busy:.0%}" if is_relay else None,
            f"{load_busy:.0%}",
            _bottleneck(relay_busy, load_busy),
        )
        if is_relay:
            bars.series.setdefault(name, []).append(Spread.of(value * 1e6 for value in mine.cpu.values))
    bars.groups = [*bars.groups, f"{sessions:,}\n{in_flight} in flight"]


def _bottleneck(relay_busy: float, load_busy: float) -> str:
    if relay_busy >= _BUSY:
        return "both" if load_busy >= _BUSY else "relay"
    return "load" if load_busy >= _BUSY else "others"


def _add_latency(
    table: Table,
    report: Report,
    running: Sequence[Load],
    options: Options,
    sessions: int,
    rate: float,
    word: str,
) -> None:
    figures: dict[str, list[Measured]] = {load.relay.name: [] for load in running}
    for _ in range(options.rounds_or(5, 2)):
        for load in running:
            measured = load.pace(warm=0.3, seconds=options.seconds_or(3.0, 1.0), rate=rate)
            figures[load.relay.name].append(measured)
    direct = figures.get(Kind.DIRECT)
    added: dict[str, Spread] = {}
    for name, rounds in figures.items():
        p50, p99 = (Spread.of(getattr(measured, which) for measured in rounds) for which in ("p50", "p99"))
        cells = ["", "", ""]
        if direct is not None and name != Kind.DIRECT:
            added[name] = _minus(p99, [measured.p99 for measured in direct])
            cells = [_minus(p50, [measured.p50 for measured in direct]).show(1e6, 0), added[name].show(1e6, 0), ""]
        slowest = max(measured.slowest for measured in rounds)
        unanswered = sum(measured.unanswered for measured in rounds)
        times = p50.show(1e6, 0), p99.show(1e6, 0), *cells, f"{slowest * 1e6:,.0f}"
        table.add(name, f"{sessions:,}", f"{rate:,.0f}", *times, unanswered)
    if Kind.HAPROXY in added and added[Kind.HAPROXY].median > 0:
        for row in table.rows[-len(figures) :]:
            if row[0] in added and row[0] != Kind.HAPROXY:
                row[7] = f"{added[row[0]].median / added[Kind.HAPROXY].median:.2f}"
    report.data += [
        {
            "traffic": word,
            "sessions": sessions,
            "rate": rate,
            "relay": name,
            "p50": m.p50,
            "p99": m.p99,
            "max": m.slowest,
        }
        for name, rounds in figures.items()
        for m in rounds
    ]


def _minus(spread: Spread, base: Sequence[float]) -> Spread:
    return Spread.of(mine - theirs for mine, theirs in zip(spread.values, base, strict=True))


def _data(word: str, sessions: int, in_flight: int, figures: dict[str, _Figures]) -> list[dict[str, object]]:
    return [
        {
            "traffic": word,
            "sessions": sessions,
            "in_flight": in_flight,
            "relay": name,
            "cpu_us": measured.cpu_each * 1e6,
            "rate": measured.rate,
            "relay_cpu": measured.relay_cpu,
            "load_cpu": measured.load_cpu,
            "node_cpu": measured.node_cpu,
            "seconds": measured.seconds,
        }
        for name, mine in figures.items()
        for measured in mine.rounds
    ]
