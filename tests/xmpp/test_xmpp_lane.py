"""Lanes: what leaves them, in whatever pieces the bytes come and however they are read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxfr_proxy.xmpp.framing.events import MAX_EVENTS_PER_SCAN, StreamEnd, StreamFault, StreamStart, WholeElement
from cxfr_proxy.xmpp.framing.lane import Lane, Piece

HEADER = b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
END = b"</stream:stream>"
LONG = b"<iq><query>" + b"x" * 100 + b"</query></iq>"
STREAM = [
    b"<message><body>hi</body></message>",
    b" \n",
    b"<presence/>",
    b"<foo xmlns='urn:x'><message/></foo>",
    b"<iq type='set'><query xmlns='urn:xmpp:cxfr'/></iq>",
    b"<iq/>",
    b" ",
    b"<message><body>\xe2\x82\xac</body></message>",
]
BODY = b"".join(STREAM)
REPORTED = [STREAM[3], STREAM[4]]


def opened(max_held: int | None = None, limit: int | None = None) -> Lane:
    lane = Lane(max_element_bytes=None, max_depth=64, max_held_bytes=max_held)
    lane.feed(HEADER)
    piece = lane.next()
    assert piece is not None
    assert (piece.event, piece.data) == (StreamStart(0, len(HEADER)), HEADER)
    assert lane.next() is None
    lane.limit_elements(limit)
    return lane


def scanned(lane: Lane, *chunks: bytes) -> list[Piece]:
    return [piece for chunk in chunks for piece in lane.pieces(lane.scan(chunk))]


def stepped(lane: Lane, *chunks: bytes) -> list[Piece]:
    pieces: list[Piece] = []
    for chunk in chunks:
        lane.feed(chunk)
        while (piece := lane.next()) is not None:
            pieces.append(piece)
    return pieces


def data(pieces: list[Piece]) -> bytes:
    return b"".join(piece.data for piece in pieces)


def reported(pieces: list[Piece]) -> list[bytes]:
    return [piece.data for piece in pieces if piece.event is not None]


def cutting(lane: Lane) -> bool:
    return lane.cutting  # a call: what it answered before says nothing about now


def cuts(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    return ((body[:at], body[at:]) for at in range(len(body) + 1))


def bytewise(body: bytes) -> list[bytes]:
    return [body[at : at + 1] for at in range(len(body))]


# --- held tails


def test_a_tail_is_held_until_it_is_whole() -> None:
    lane = opened()
    assert lane.scan(b"<presence/><message><bo") == b"<presence/>"
    assert lane.held_bytes == len(b"<message><bo")
    assert lane.scan(b"dy>a</body>") == b""
    assert lane.scan(b"</message> <iq") == b"<message><body>a</body></message> "
    assert lane.held_bytes == 3


@pytest.mark.parametrize("read", [scanned, stepped])
def test_every_cut_gives_the_same(read: object) -> None:
    assert callable(read)
    for chunks in [*cuts(BODY), tuple(bytewise(BODY))]:
        pieces = read(opened(), *chunks)
        assert data(pieces) == BODY
        assert all(piece.whole for piece in pieces)
        assert reported(pieces) == (REPORTED if read is scanned else [part for part in STREAM if part.strip()])


@pytest.mark.parametrize("header", [HEADER, HEADER.replace(b"stream:stream", b"s:stream").replace(b":stream=", b":s=")])
def test_a_stream_begins_the_same_at_every_cut(header: bytes) -> None:
    """A usual header is read at a glance only where it comes in one piece; white space in front of it is dropped."""

    def read(*chunks: bytes) -> list[tuple[object, bytes]]:
        lane = Lane(max_element_bytes=None, max_depth=64)
        return [(piece.event, piece.data) for piece in stepped(lane, *chunks) if piece.event is not None]

    stream = b" \r\n" + header + b"\n<presence/>" + STREAM[3]
    whole = read(stream)
    assert [found for _, found in whole] == [header, b"<presence/>", STREAM[3]]
    for chunks in [*cuts(stream), tuple(bytewise(stream))]:
        assert read(*chunks) == whole


def test_only_whole_elements_leave_at_every_cut() -> None:
    ends = {len(b"".join(STREAM[:count])) for count in range(len(STREAM) + 1)} | {35}  # within the two spaces
    lane, out = opened(), 0
    for byte in bytewise(BODY):
        out += len(data(scanned(lane, byte)))
        assert out in ends
    assert out == len(BODY)


@given(st.lists(st.tuples(st.integers(0, len(BODY)), st.booleans()), max_size=12), st.sampled_from([None, 10, 30]))
def test_switching_between_the_ways_anywhere_loses_nothing(
    switches: list[tuple[int, bool]], max_held: int | None
) -> None:
    lane = opened(max_held)
    marks = [(0, False), *sorted(switches), (len(BODY), False)]
    pieces: list[Piece] = []
    for (start, stepwise), (end, _) in pairwise(marks):
        pieces += (stepped if stepwise else scanned)(lane, BODY[start:end])
    assert data(pieces) == BODY
    assert lane.held_bytes == 0
    assert not cutting(lane)
    seen = [piece.data for piece in pieces if isinstance(piece.event, WholeElement) and piece.whole]
    if max_held is None:
        assert [part for part in seen if part in REPORTED] == REPORTED
    assert set(seen) <= set(STREAM)


def test_stepping_stops_at_each_element_and_the_rest_can_be_taken() -> None:
    lane = opened()
    lane.feed(b"<iq/><presence/><message>")
    piece = lane.next()
    assert piece is not None
    assert piece.data == b"<iq/>"
    assert lane.take_unread() == b"<presence/><message>"
    assert lane.next() is None


def test_an_empty_chunk_changes_nothing() -> None:
    lane = opened()
    assert lane.scan(b"<mess") == lane.scan(b"") == b""
    assert lane.held_bytes == 5


# --- white space, ends, failures


def test_white_space_passes_at_once() -> None:
    lane = opened()
    assert lane.scan(b" ") == b" "
    assert lane.scan(b"\n\t") == b"\n\t"
    assert stepped(lane, b" ") == [Piece(None, b" ")]


def test_white_space_inside_an_element_is_held() -> None:
    lane = opened()
    assert lane.scan(b"<message> ") == b""
    assert lane.scan(b"  ") == b""


@pytest.mark.parametrize("read", [scanned, stepped])
def test_the_end_and_nothing_behind_it(read: object) -> None:
    assert callable(read)
    for chunks in cuts(b"<iq/> " + END + b"junk<"):
        pieces = [piece for piece in read(opened(), *chunks) if piece.event is not None or piece.data]
        ends = [piece for piece in pieces if isinstance(piece.event, StreamEnd)]
        assert [piece.data for piece in ends] == [END]
        before = pieces[: pieces.index(ends[0])]
        assert data(before) == b"<iq/> "


@pytest.mark.parametrize("read", [scanned, stepped])
def test_what_comes_before_a_failure_passes_and_the_rest_does_not(read: object) -> None:
    assert callable(read)
    for chunks in [*cuts(b"<iq/><message></oops>"), tuple(bytewise(b"<iq/><message></oops>"))]:
        pieces = read(opened(), *chunks)
        assert data(pieces) == b"<iq/>"
        assert [type(piece.event) for piece in pieces if piece.event is not None][-1] is StreamFault
        assert not pieces[-1].data


def test_a_limit_set_later_counts() -> None:
    lane = opened(limit=20)
    assert isinstance(scanned(lane, b"<message>" + b"x" * 20)[-1].event, StreamFault)
    lane = opened(limit=20)
    lane.limit_elements(None)
    assert data(scanned(lane, LONG)) == LONG


# --- cutting through


def test_a_long_element_is_cut_through_and_has_no_boundary_inside() -> None:
    lane = opened(max_held=50)
    assert lane.scan(b"<iq/>" + LONG[:40]) == b"<iq/>"
    assert not cutting(lane)
    assert lane.scan(LONG[40:60]) == LONG[:60]
    assert cutting(lane)
    assert lane.held_bytes == 0
    assert lane.scan(LONG[60:70]) == LONG[60:70]
    assert cutting(lane)
    assert lane.scan(LONG[70:] + b"<presence/><mess") == LONG[70:] + b"<presence/>"
    assert not cutting(lane)
    assert lane.held_bytes == len(b"<mess")


def test_cutting_through_passes_every_byte_at_every_cut() -> None:
    body = STREAM[0] + LONG + STREAM[4] + LONG + b" "
    for chunks in [*cuts(body), tuple(bytewise(body))]:
        lane = opened(max_held=40)
        pieces = scanned(lane, *chunks)
        assert data(pieces) == body
        assert not cutting(lane)


def test_a_noted_element_that_was_cut_through_is_not_whole() -> None:
    lane = opened(max_held=20)
    forged = b"<iq type='set'><query xmlns='urn:xmpp:cxfr'><domain/></query></iq>"
    assert not scanned(lane, forged[:50])[0].whole or lane.cutting
    pieces = scanned(lane, forged[50:] + b"<iq/>")
    assert [(piece.data, piece.whole) for piece in pieces] == [(forged[50:], False), (b"<iq/>", True)]
    assert pieces[0].event == WholeElement(len(HEADER), len(HEADER) + len(forged), "iq", stanzas=1)


def test_a_failure_while_cutting_through_carries_no_bytes() -> None:
    lane = opened(max_held=20)
    scanned(lane, b"<iq/>", LONG[:40])
    assert cutting(lane)
    pieces = scanned(lane, b"more</oops>and more")
    assert [(type(piece.event), piece.data) for piece in pieces] == [(StreamFault, b"")]
    assert cutting(lane)


def test_stepping_waits_for_the_end_of_what_is_being_cut_through() -> None:
    lane = opened(max_held=20)
    out = data(scanned(lane, LONG[:40]))
    assert cutting(lane)
    pieces = stepped(lane, *bytewise(LONG[40:] + b"<presence/>"))
    assert out + data(pieces) == LONG + b"<presence/>"
    assert [piece.whole for piece in pieces] == [False, True]
    assert not cutting(lane)


# --- restart


def test_a_restart_begins_a_new_stream_with_what_was_not_read() -> None:
    lane = Lane(max_element_bytes=8192, max_depth=64)
    lane.feed(HEADER + b"<auth/>" + HEADER + b"<iq/>")
    assert [piece.data for piece in (lane.next(), lane.next()) if piece is not None] == [HEADER, b"<auth/>"]
    lane.restart()
    pieces = stepped(lane, b"")
    assert [piece.data for piece in pieces] == [HEADER, b"<iq/>"]
    assert pieces[0].event == StreamStart(0, len(HEADER))


def test_a_restart_forgets_half_an_element() -> None:
    lane = opened()
    scanned(lane, b"<iq/><mess")
    lane.restart()
    assert lane.held_bytes == 0
    assert data(stepped(lane, HEADER, b"<iq/>")) == HEADER + b"<iq/>"


@pytest.mark.parametrize("cut", [True, False])
def test_white_space_of_the_old_stream_does_not_spoil_the_new_one(cut: bool) -> None:
    # A client that ends its elements with a newline sends one behind <auth/>, while nothing is read from it.
    lane = opened()
    lane.feed(b"<auth/>" if cut else b"<auth/>\n")
    assert lane.next() is not None
    lane.restart()
    pieces = stepped(lane, *([b"\n", b" ", HEADER] if cut else [HEADER]))
    assert [(type(piece.event), piece.data) for piece in pieces] == [(StreamStart, HEADER)]


def test_a_restart_keeps_the_limits() -> None:
    lane = opened(limit=150)
    lane.restart()
    assert data(stepped(lane, HEADER)) == HEADER
    assert isinstance(stepped(lane, b"<message>" + b"x" * 150)[-1].event, StreamFault)


def test_a_header_that_trickles_in() -> None:
    lane = Lane(max_element_bytes=8192, max_depth=64)
    pieces = stepped(lane, *bytewise(HEADER + b"<iq/>"))
    assert [piece.data for piece in pieces] == [HEADER, b"<iq/>"]


def test_what_is_to_be_noted_is_so_behind_the_header_as_well() -> None:
    """Of each stream: it is said once for the lane."""
    lane = Lane(max_element_bytes=None, max_depth=8)
    lane.report_acks(True)
    for _ in range(2):
        lane.restart()
        lane.feed(HEADER)
        assert lane.next() is not None
        ready = lane.scan(b"<r/><a h='1'/>")
        assert [piece.event.name for piece in lane.pieces(ready) if isinstance(piece.event, WholeElement)] == ["r", "a"]


@pytest.mark.parametrize("size", [1, 7, 30])
@pytest.mark.parametrize("where", ["in front of the header", "behind it"])
def test_white_space_without_end(where: str, size: int) -> None:
    """Elements have a limit; who sends none must not go on for ever by that."""
    lane = Lane(max_element_bytes=200, max_depth=64)
    before = len(stepped(lane, HEADER)) if where == "behind it" else 0
    pieces = stepped(lane, *[b" " * size] * (200 // size))
    assert all(piece.event is None for piece in pieces)
    [failure] = [piece for piece in stepped(lane, b" " * size * 2) if piece.event is not None]
    assert isinstance(failure.event, StreamFault)
    assert (failure.event.condition, failure.data, lane.opened) == ("policy-violation", b"", bool(before))


def test_white_space_between_elements_is_nobodys_fault() -> None:
    lane = Lane(max_element_bytes=200, max_depth=64)
    body = [HEADER, *([b" " * 150, b"<iq/>"] * 20)]
    assert [piece.data for piece in stepped(lane, *body) if isinstance(piece.event, WholeElement)] == [b"<iq/>"] * 20


def test_what_is_put_back_comes_next() -> None:
    subject = opened()
    subject.feed(b"<a/><b/>")
    piece = subject.next()
    assert piece is not None
    subject.put_back(piece)
    assert not subject.skip(b"<b/>"), "it comes later"
    assert subject.next() == piece
    assert subject.skip(b"<b/>")


def test_what_is_put_back_has_its_note_and_more_behind_it() -> None:
    subject = opened()
    subject.feed(b"<a/>")
    piece = subject.next()
    assert piece is not None
    assert piece.last
    subject.put_back(piece, "seen")
    subject.feed(b"<b/>")
    again = subject.next()
    assert again is not None
    assert (again.event, again.data, again.last, again.note) == (piece.event, b"<a/>", False, "seen")
    behind = subject.next()
    assert behind is not None
    assert (behind.data, behind.last, behind.note) == (b"<b/>", True, None)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_the_last_piece_is_the_last(size: int) -> None:
    """A reader that stops at it misses nothing that was fed."""
    lane = Lane(max_element_bytes=8192, max_depth=64)
    stream = HEADER + b"<a/>  <b><c/></b><iq/>"
    for at in range(0, len(stream), size):
        lane.feed(stream[at : at + size])
        while (piece := lane.next()) is not None:
            if piece.last:
                assert (lane.unread, lane.next()) == (b"", None)
                break


def test_a_scan_leaves_what_is_much_to_look_at() -> None:
    lane = opened()
    ready = lane.scan(b"<presence/>" + b"<x/>" * (MAX_EVENTS_PER_SCAN + 5) + b"<iq")
    assert (ready, lane.has_events) == (b"<presence/>" + b"<x/>" * MAX_EVENTS_PER_SCAN, True)
    assert lane.unread == b"<x/>" * 5 + b"<iq"
    assert len(reported(list(lane.pieces(ready)))) == MAX_EVENTS_PER_SCAN
    assert lane.held_bytes == len(b"<x/>" * 5 + b"<iq")
    ready = lane.scan(lane.take_unread())
    assert (ready, lane.unread, lane.held_bytes) == (b"<x/>" * 5, b"", 3)
    assert len(reported(list(lane.pieces(ready)))) == 5


def test_what_a_scan_has_left_can_be_stepped_through() -> None:
    lane = opened()
    list(lane.pieces(lane.scan(b"<x/>" * (MAX_EVENTS_PER_SCAN + 1))))
    assert data(stepped(lane, b"<y/>")) == b"<x/><y/>"
