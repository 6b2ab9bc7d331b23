"""ns per stanza and MB/s of the native scanner, the expat engine and lxml's pull parser.

Four kinds of traffic, each cut in three ways: a stanza a read, as a relay meets it; 16 KiB a read, as in a backlog; and
64 bytes a read, which no network does and which shows what a read costs that ends nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from lxml import etree

from bench import machine
from bench.options import Options, tell
from bench.report import Bars, Report, Spread, Table
from bench.traffic import HEADER, TRAFFIC, Traffic
from cxfr_proxy.xmpp import framing, stanza
from cxfr_proxy.xmpp.framing import Header

_CUTS: Final = {"a stanza a read": None, "16 KiB a read": 16_384, "64 bytes a read": 64}
_MAX_ELEMENT: Final = 1 << 20
_MAX_DEPTH: Final = 64
_LXML: Final = "lxml pull"

Reader = Callable[[Sequence[bytes]], None]


def run(options: Options) -> Report:
    seconds = options.seconds_or(0.4, 0.05)
    rounds = options.rounds_or(7, 3)
    report = Report("framing", options.quick, machine.describe())
    engines = [*framing.ENGINES, _LXML]
    table = Table(
        "Framing: ns per stanza, MB/s, and how many times as long as the first engine",
        ["traffic", "cut", *(f"{engine} ns" for engine in engines), *(f"{engine} MB/s" for engine in engines)]
        + [f"{engine} / {engines[0]}" for engine in engines[1:]],
    )
    for traffic in TRAFFIC:
        for cut, size in _CUTS.items():
            tell(f"framing: {traffic.name}, {cut}")
            times = _measure(engines, traffic, size, rounds, seconds)
            stanzas, total = len(traffic.stanzas), sum(map(len, traffic.stanzas))
            table.rows.append(
                [traffic.name, cut]
                + [times[engine].show(1e9 / stanzas, 0) for engine in engines]
                + [f"{total / times[engine].median / 1e6:,.0f}" for engine in engines]
                + [f"{times[engine].over(times[engines[0]]):.1f}" for engine in engines[1:]]
            )
            report.data.append(
                {"traffic": traffic.name, "cut": cut, "stanzas": stanzas, "bytes": total}
                | {engine: list(spread.values) for engine, spread in times.items()}
            )
            if size is None:
                _add_bars(report, traffic, engines, times)
    table.notes.append("the Lane around a framer (what is held back, what goes out) is not in these figures")
    if "native" not in engines:
        table.notes.append("no native engine was built here")
    report.tables.append(table)
    return report


def _add_bars(report: Report, traffic: Traffic, engines: Sequence[str], times: dict[str, Spread]) -> None:
    if not report.plots:
        report.plots.append(Bars("stanza", "Framing, a stanza a read", "µs per stanza", [], {e: [] for e in engines}))
    bars = report.plots[0]
    bars.groups = [*bars.groups, traffic.name]
    for engine in engines:
        bars.series[engine].append(Spread.of(value * 1e6 / len(traffic.stanzas) for value in times[engine].values))


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
    passes, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or not passes:
        reader(chunks)
        passes += 1
    return elapsed / passes


def _framer_reader(engine: str) -> Reader:
    framing.use(engine)
    framer = framing.new_framer(max_element_bytes=_MAX_ELEMENT, max_depth=_MAX_DEPTH)
    assert framer.step(HEADER) == len(HEADER)
    assert isinstance(framer.notes.pop(), Header)
    framer = framing.behind_header(framer, stanza.tag_name(HEADER), max_depth=_MAX_DEPTH)
    read = len(HEADER)

    def reader(chunks: Sequence[bytes]) -> None:
        nonlocal read
        scan = framer.scan
        for chunk in chunks:
            scan(chunk)
        read += sum(map(len, chunks))
        if framer.notes or framer.boundary != read:
            raise AssertionError(f"{engine} ended at {framer.boundary} of {read} bytes, with {framer.notes}")

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
