"""ns per stanza and MB/s of the native scanner, the expat engine and lxml's pull parser.

Four kinds of traffic, each cut in three ways: a stanza a read, as a relay meets it; 16 KiB a read, as in a backlog; and
64 bytes a read, which no network does and which shows what a read costs that ends nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from lxml import etree

from bench import machine, programs
from bench.options import Options, new_report, tell
from bench.plots import Bars, Plot
from bench.report import Goal, Report, Table
from bench.spread import Spread, ratio
from bench.traffic import HEADER, TRAFFIC, Traffic
from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.framing import framer
from cxfr_proxy.xmpp.framing.framer import StreamStart

_CUTS: Final = {"a stanza a read": None, "16 KiB a read": 16_384, "64 bytes a read": 64}
_MAX_ELEMENT: Final = 1 << 20
_MAX_DEPTH: Final = 64
_LXML: Final = "lxml pull"
_NATIVE: Final = "native"
_GOAL: Final = 25.0

Reader = Callable[[Sequence[bytes]], None]


def run(options: Options) -> Report:
    seconds = options.seconds_or(0.15, 0.05)
    rounds = options.rounds_or(7, 3)
    report = new_report("framing", options)
    report.about["lxml"] = f"{etree.__version__}, libxml2 {'.'.join(map(str, etree.LIBXML_VERSION))}"
    engines = [*framer.ENGINE.names, _LXML]
    panels = {cut: Bars(cut, "MB/s", logarithmic=True, digits=0) for cut in _CUTS}
    table = Table(
        "Framing: ns per stanza, MB/s, and how many times as long as the first engine",
        ["traffic", "cut", *(f"{engine} ns" for engine in engines), *(f"{engine} MB/s" for engine in engines)]
        + [f"{engine} / {engines[0]}" for engine in engines[1:]],
    )
    for traffic in TRAFFIC:
        for cut, size in _CUTS.items():
            tell(f"framing: {traffic.name}, {cut}")
            with programs.on_core(machine.cores().relay[0]):
                times = _measure(engines, traffic, size, rounds, seconds)
            stanzas, total = len(traffic.stanzas), sum(map(len, traffic.stanzas))
            table.rows.append(
                [traffic.name, cut]
                + [times[engine].show(1e9 / stanzas, 0) for engine in engines]
                + [f"{total / times[engine].median / 1e6:,.0f}" for engine in engines]
                + [f"{found.median:.1f}" for e in engines[1:] if (found := ratio(times[e], times[engines[0]]))]
            )
            found = ratio(times[_LXML], times.get(_NATIVE))
            report.goals.append(Goal(f"{traffic.name}, {cut}: lxml pull / native", _GOAL, found, " x", at_least=True))
            report.data.append(
                {"traffic": traffic.name, "cut": cut, "stanzas": stanzas, "bytes": total}
                | {engine: list(spread.values) for engine, spread in times.items()}
            )
            panels[cut].add_group(traffic.name, {e: _mb_per_second(total, times[e]) for e in engines})
    table.notes.append("the Lane around a framer (what is held back, what goes out) is not in these figures")
    if _NATIVE not in engines:
        table.notes.append("no native engine was built here")
    report.tables.append(table)
    report.plots.append(Plot("speed", "Framing: how fast the ends of stanzas are found", [*panels.values()], across=3))
    return report


def _mb_per_second(total: int, times: Spread) -> Spread:
    return Spread.of(total / value / 1e6 for value in times.values)


def _measure(
    engines: Sequence[str], traffic: Traffic, size: int | None, rounds: int, seconds: float
) -> dict[str, Spread]:
    """Seconds for the whole of the traffic, by engine, in rounds that take turns."""
    chunks = traffic.cut(size)
    readers = {engine: _lxml_reader() if engine == _LXML else _framer_reader(engine) for engine in engines}
    times: dict[str, list[float]] = {engine: [] for engine in engines}
    for _ in range(rounds):
        for engine, reader in readers.items():
            times[engine].append(_time(reader, chunks, seconds))
    return {engine: Spread.of(values) for engine, values in times.items()}


def _time(reader: Reader, chunks: Sequence[bytes], seconds: float) -> float:
    """Seconds for one pass, over as many passes as take ``seconds``."""
    passes, start = 0, time.process_time()
    while (elapsed := time.process_time() - start) < seconds or not passes:
        reader(chunks)
        passes += 1
    return elapsed / passes


def _framer_reader(engine: str) -> Reader:
    framer.ENGINE.use(engine)
    reading = framer.new_framer(max_element_bytes=_MAX_ELEMENT, max_depth=_MAX_DEPTH)
    assert reading.step(HEADER) == len(HEADER)
    assert isinstance(reading.events.pop(), StreamStart)
    reading = framer.behind_header(reading, stanza.tag_name(HEADER), max_depth=_MAX_DEPTH)
    read = len(HEADER)

    def reader(chunks: Sequence[bytes]) -> None:
        nonlocal read
        scan = reading.scan
        for chunk in chunks:
            scan(chunk)
        read += sum(map(len, chunks))
        if reading.events or reading.boundary != read:
            raise AssertionError(f"{engine} ended at {reading.boundary} of {read} bytes, with {reading.events}")

    return reader


def _lxml_reader() -> Reader:
    """As a proxy would use it: feed, take each child of the root that has ended, and forget it."""
    parser = etree.XMLPullParser(events=("end",), huge_tree=False, resolve_entities=False)
    parser.feed(HEADER + b" ")

    def reader(chunks: Sequence[bytes]) -> None:
        ended = 0
        for chunk in chunks:
            parser.feed(chunk)
            for _, element in parser.read_events():
                parent = element.getparent()
                if parent is not None and parent.getparent() is None:
                    ended += 1
                    parent.clear(keep_tail=False)
        if not ended:
            raise AssertionError("lxml has seen no stanza end")

    return reader
