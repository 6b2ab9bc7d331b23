"""The native framing engine, and a caller that does what it should not."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

import pytest
from engines import using
from framing_tools import scan

from cxfr_proxy.xmpp.framing import framer
from cxfr_proxy.xmpp.framing.framer import (
    StreamEnd,
    WholeElement,
)

if TYPE_CHECKING:
    from cxfr_proxy.xmpp.framing._scan import Scanner


@pytest.fixture(autouse=True, scope="module", params=framer.ENGINE.names)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test here with every engine."""
    with using(framer.ENGINE, request.param):
        yield request.param


@pytest.fixture
def scanner(engine: str) -> Scanner:
    if engine != "native":
        pytest.skip("of the native engine only")
    from cxfr_proxy.xmpp.framing._scan import Scanner

    return Scanner(b"stream:stream", 0, None, 64)


def test_without_a_list_for_events_nothing_is_read_on(scanner: Scanner) -> None:
    del scanner.events
    with pytest.raises(TypeError):
        scanner.scan(b"<iq/><other/>")
    scanner.events = []
    assert scanner.scan(b"<iq/><other/>") == 0
    assert scanner.events == []
    assert scanner.boundary == 0
    scanner.events = ()  # type: ignore[assignment]
    assert scanner.scan(b"<other/>") == 0


def test_nothing_of_python_runs_while_a_chunk_is_read(scanner: Scanner) -> None:
    """Or it could feed the scanner in the middle of a chunk."""
    entered: list[str] = []

    def enter(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            entered.append(frame.f_code.co_name)

    usual = sys.getprofile()
    sys.setprofile(enter)
    try:
        assert scanner.scan(b"<other/><iq/></stream:stream>") == 29
    finally:
        sys.setprofile(usual)
    assert entered == []
    assert scanner.events == [WholeElement(0, 8, "other"), StreamEnd(13, 29)]
    assert not any(map(gc.is_tracked, scanner.events)), "nor the collector, and with it finalizers"


@pytest.mark.parametrize(
    "arguments",
    [
        (b"", 0, None, 64),
        (b"s", -1, None, 64),
        (b"s", 1 << 63, None, 64),
        (b"s", 0, -1, 64),
        (b"s", 0, 1 << 63, 64),
        (b"s", 0, None, 0),
        (b"s", 0, None, 2**31),
    ],
)
def test_numbers_out_of_range_are_refused(scanner: Scanner, arguments: tuple[bytes, int, int | None, int]) -> None:
    with pytest.raises((ValueError, OverflowError)):
        type(scanner)(*arguments)


def test_the_greatest_depth_is_a_depth(scanner: Scanner) -> None:
    deep = type(scanner)(b"s", 0, None, 2**31 - 1)
    assert deep.scan(b"<iq>" * 1000 + b"</iq>" * 1000) == 9000
    assert deep.events == []


def test_offsets_beyond_32_bits(scanner: Scanner) -> None:
    high = type(scanner)(b"s", (1 << 62) + 1, 100, 64)
    assert high.scan(b"<other/>") == 8
    assert high.events == [WholeElement((1 << 62) + 1, (1 << 62) + 9, "other")]
    assert high.boundary == (1 << 62) + 9


@pytest.mark.parametrize("size", [1, 15, 16, 17, 63, 64, 65, 254, 255, 256, 5000])
def test_names_of_every_size(size: int) -> None:
    name = b"n" * size
    for inner in (b"<iq>", b""):
        element = b"<" + name + b">" + inner + inner.replace(b"<", b"</") + b"</" + name + b">"
        for sizes in ([len(element)], [3], [size + 1, 5000]):
            assert scan(element, sizes).boundary == len(element)
            assert scan(element[:-2] + b"x>", sizes).failure() is not None
            assert scan(element[:-1] + b"n>", sizes).failure() is not None


def test_an_idle_stream_keeps_little(scanner: Scanner) -> None:
    """At a boundary nothing is left of a long name, nor of an element that was deep."""
    tracemalloc = pytest.importorskip("tracemalloc")
    assert sys.getsizeof(scanner) + sys.getsizeof(scanner.events) <= 400
    deep = b"<nnnnnnnn>" * 50 + b"</nnnnnnnn>" * 50
    long = b"<iq " + b"a" * 100_000 + b" = ''><" + b"n" * 100_000 + b" /></iq>"
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for body in (deep, long):
            scanner.scan(b"<iq>" + body + b"</iq>")
        assert tracemalloc.get_traced_memory()[0] - before < 500
        assert tracemalloc.get_traced_memory()[1] - before > 200_000  # it did need that
        assert scanner.events == []
    finally:
        tracemalloc.stop()
