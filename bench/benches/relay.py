"""CPU per round trip and round trips per second, plain and TLS; added latency at half load.

A stanza of 333 bytes goes from a client through the relay to a node and comes back. All relays have all their sessions
open all the time; in each round each has its turn.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Final

from bench.load import STANZA_BYTES, Load, Measured, bottleneck
from bench.options import Options, loads, new_report, new_setup, tell
from bench.plots import Bars, Plot
from bench.relays import Kind, max_sessions
from bench.report import Goal, Report, Table, columns
from bench.spread import Spread, ratio

_SESSIONS: Final = (100, 1_000, 5_000)
_QUICK_SESSIONS: Final = (100, 1_000)
_MANY: Final = 5_000
"""From here on rounds are fewer: they take longer to begin, and differ less."""
_IN_FLIGHT: Final = (1, 8)
_KINDS: Final = (Kind.PROXY, Kind.HAPROXY, Kind.NGINX, Kind.BARE, Kind.DIRECT)
_LATENCIES: Final = ("p50", "p99")
_WARM_SECONDS: Final = 0.2
_P99_LIMIT: Final = 1.5
_PEERS: Final = (Kind.HAPROXY, Kind.NGINX, Kind.BARE)

_COLUMNS: Final = columns(
    f"relay | sessions | in flight | CPU µs per round trip | {' | '.join(f'/ {peer}' for peer in _PEERS)} |"
    " round trips/s | relay's core | load's core | bottleneck"
)
_NOTES: Final = (
    "'direct' has no relay, and no TLS: the most this load and this node can do together",
    "a ratio is the median of the rounds' own ratios; below 1 the relay of the row needs less CPU",
    "8 in flight: what arrives together is answered together, so reads hold several stanzas",
    "bottleneck 'nobody': neither core was used up, so somebody else's processes, or waking up, were in the way",
    "bottleneck 'load': round trips/s are the load's, and the relay's CPU is that of a relay with pauses",
)
_LATENCY_COLUMNS: Final = columns(
    "relay | sessions | rate/s | p50 µs | p99 µs | added p50 µs | added p99 µs | added p99 / haproxy | max µs |"
    " unanswered | CPU µs per round trip | / haproxy | load's core"
)
_LATENCY_NOTES: Final = (
    "half load: half the round trips/s of the slowest relay here with one in flight, the same for all",
    "latency counts from when a stanza was due; 'added' is what the relay has above 'direct', round by round",
    "all relays do the same work here, at the same rate, so CPU per round trip is that of relays with pauses",
)

_PLAIN_LIMITS: Final = {100: 1.15, 1_000: 1.0}
"""One in flight, by sessions."""

Rounds = dict[str, list[Measured]]
"""By relay, a value a round."""


@dataclass(frozen=True, slots=True)
class _Case:
    tls: bool
    sessions: int
    in_flight: int

    @property
    def word(self) -> str:
        return "TLS" if self.tls else "plain"

    def goals(self, cpu: dict[str, Spread]) -> list[Goal]:
        """The CPU per round trip that has to be reached here, and the program it is compared with. Limits that name no
        number of sessions hold for each."""
        where = f"{self.word}, {self.sessions:,} sessions, {self.in_flight} in flight: CPU per round trip"
        limits = {} if self.haproxy_limit is None else {Kind.HAPROXY: self.haproxy_limit}
        if not self.tls and self.in_flight == 1:
            limits[Kind.BARE] = 1.3
        mine = cpu.get(Kind.PROXY)
        return [Goal(f"{where} / {peer}", limit, ratio(mine, cpu.get(peer)), " x") for peer, limit in limits.items()]

    @property
    def haproxy_limit(self) -> float | None:
        """``None``: no goal was set here."""
        if self.in_flight > 1:
            return 1.15
        return 1.1 if self.tls else _PLAIN_LIMITS.get(self.sessions)


def run(options: Options) -> Report:
    report = new_report("relay", options)
    cpu = Plot("cpu", "Relay: CPU for a round trip of one stanza", [])
    latency = Plot("latency", "Relay: latency added at half load, the same rate for all", [])
    for tls in (False, True):
        half = _Half(tls, options, report)
        half.measure()
        report.tables += [half.cpu, half.latency]
        cpu.panels = [*cpu.panels, *half.cpu_bars.values()]
        latency.panels = [*latency.panels, *half.latency_bars.values()]
    report.plots += [cpu, latency]
    return report


@dataclass(slots=True)
class _Half:
    """All that is measured plain, or with TLS."""

    tls: bool
    options: Options
    report: Report
    cpu: Table = field(init=False)
    latency: Table = field(init=False)
    cpu_bars: dict[int, Bars] = field(init=False)
    latency_bars: dict[str, Bars] = field(init=False)

    def __post_init__(self) -> None:
        word = "TLS" if self.tls else "plain"
        title = f"Relay, {word}: CPU per round trip of {STANZA_BYTES} bytes, and round trips per second"
        self.cpu = Table(title, _COLUMNS)
        self.latency = Table(f"Relay, {word}: latency at half load", _LATENCY_COLUMNS)
        self.cpu_bars = {count: Bars(f"{word}, {count} in flight", "µs of CPU") for count in _IN_FLIGHT}
        self.latency_bars = {which: Bars(f"{word}, {which}", "µs added", digits=0) for which in _LATENCIES}

    def measure(self) -> None:
        missing: list[str] = []
        with contextlib.ExitStack() as stack:
            setup = stack.enter_context(new_setup(self.options, tls=self.tls))
            running = stack.enter_context(loads(_KINDS, setup, missing))
            opened = 0
            for size in _QUICK_SESSIONS if self.options.quick else _SESSIONS:
                sessions = min(size, max_sessions())
                tell(f"relay, {'TLS' if self.tls else 'plain'}: {sessions} sessions")
                for load in running:
                    load.open(sessions - opened, stage="online")
                opened = sessions
                self._measure_sessions(running, sessions, shared=setup.cores.shared)
        self.cpu.notes += [str(setup.cores), *_NOTES, *missing]
        self.latency.notes += list(_LATENCY_NOTES)

    def _measure_sessions(self, running: Sequence[Load], sessions: int, *, shared: bool) -> None:
        count, seconds = self.options.rounds_or(3 if sessions >= _MANY else 5, 2), self.options.seconds_or(0.8, 0.4)
        slowest = 0.0
        for in_flight in _IN_FLIGHT:
            run = partial(Load.run, warm=_WARM_SECONDS, seconds=seconds, in_flight=in_flight)
            rounds = _take_turns(running, count, run)
            self._add_cpu(_Case(self.tls, sessions, in_flight), rounds, shared=shared)
            if in_flight == 1:
                slowest = min(rate.median for name, rate in _spreads(rounds, "rate").items() if name != Kind.DIRECT)
        pace = partial(Load.pace, warm=_WARM_SECONDS, seconds=seconds, rate=slowest / 2)
        self._add_latency(_Case(self.tls, sessions, 1), _take_turns(running, count, pace), slowest / 2, shared=shared)

    def _add_cpu(self, case: _Case, rounds: Rounds, *, shared: bool) -> None:
        cpu, rate = _spreads(rounds, "cpu_each", 1e6), _spreads(rounds, "rate")
        del cpu[Kind.DIRECT]
        for name, measured in rounds.items():
            load_busy, relay_busy = _load_busy(measured, shared=shared), median(m.relay_busy for m in measured)
            self.cpu.add(
                *(name, f"{case.sessions:,}", case.in_flight, cpu[name].show() if name in cpu else None),
                *(_ratio_cell(name, cpu, peer) for peer in _PEERS),
                rate[name].show(1, 0),
                *(f"{relay_busy:.0%}" if name in cpu else None, f"{load_busy:.0%}"),
                bottleneck(relay_busy, load_busy),
            )
        goal, theirs = case.haproxy_limit, cpu.get(Kind.HAPROXY)
        limit = goal * theirs.median if goal is not None and theirs is not None else None
        self.cpu_bars[case.in_flight].add_group(f"{case.sessions:,} sessions", dict(cpu), limit)
        self.report.goals += case.goals(cpu)
        self.report.data += _data("run", case, rounds)

    def _add_latency(self, case: _Case, rounds: Rounds, rate: float, *, shared: bool) -> None:
        times = {which: _spreads(rounds, which, 1e6) for which in _LATENCIES}
        cpu = _spreads(rounds, "cpu_each", 1e6)
        del cpu[Kind.DIRECT]
        added = {which: {name: of[name].minus(of[Kind.DIRECT]) for name in cpu} for which, of in times.items()}
        for name, measured in rounds.items():
            self.latency.add(
                *(name, f"{case.sessions:,}", f"{rate:,.0f}"),
                *(of[name].show(1, 0) for of in times.values()),
                *(of[name].show(1, 0) if name in of else None for of in added.values()),
                f"{found:.2f}" if name != Kind.HAPROXY and (found := _added_ratio(added["p99"], name)) else None,
                f"{max(m.slowest for m in measured) * 1e6:,.0f}",
                sum(m.unanswered for m in measured),
                cpu[name].show() if name in cpu else None,
                _ratio_cell(name, cpu, Kind.HAPROXY),
                f"{_load_busy(measured, shared=shared):.0%}",
            )
        what = f"{case.word}, {case.sessions:,} sessions: added p99 at half load / haproxy"
        found = _added_ratio(added["p99"], Kind.PROXY)
        self.report.goals.append(Goal(what, _P99_LIMIT, Spread.of([found]) if found is not None else None, " x"))
        self.report.data += _data("pace", case, rounds)
        theirs = added["p99"].get(Kind.HAPROXY)
        limits = {"p50": None, "p99": _P99_LIMIT * theirs.median if theirs is not None else None}
        for which, bars in self.latency_bars.items():
            bars.add_group(f"{case.sessions:,} sessions", dict(added[which]), limits[which])


def _take_turns(running: Sequence[Load], count: int, measure: Callable[[Load], Measured]) -> Rounds:
    rounds: Rounds = {load.relay.name: [] for load in running}
    for _ in range(count):
        for load in running:
            rounds[load.relay.name].append(measure(load))
    return rounds


def _spreads(rounds: Rounds, which: str, scale: float = 1.0) -> dict[str, Spread]:
    """One of the figures of :class:`Measured`, for each relay."""
    return {name: Spread.of(getattr(m, which) * scale for m in measured) for name, measured in rounds.items()}


def _load_busy(measured: Sequence[Measured], *, shared: bool) -> float:
    return median(m.load_busy(shared=shared) for m in measured)


def _ratio_cell(name: str, spreads: dict[str, Spread], peer: Kind) -> str | None:
    found = ratio(spreads.get(name), spreads.get(peer)) if name != peer else None
    return f"{found.median:.2f}" if found is not None else None


def _added_ratio(added: dict[str, Spread], name: str) -> float | None:
    """Of the medians, for differences of two tails vary much from round to round. ``None``: nothing to divide by."""
    mine, theirs = added.get(name), added.get(Kind.HAPROXY)
    return mine.median / theirs.median if mine is not None and theirs is not None and theirs.median > 0 else None


def _data(what: str, case: _Case, rounds: Rounds) -> list[dict[str, object]]:
    return [
        {"what": what, **dataclasses.asdict(case), "relay": name, **dataclasses.asdict(measured)}
        for name, all_of_them in rounds.items()
        for measured in all_of_them
    ]
