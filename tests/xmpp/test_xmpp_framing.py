"""Framing: every vector whole, byte by byte, at every cut, and with junk behind it; then against what was built."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING
from xml.parsers import expat

import pytest
from engines import using
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.framing import framer
from cxfr_proxy.xmpp.framing._expat import ExpatFramer
from cxfr_proxy.xmpp.framing.framer import (
    MAX_EVENTS_PER_SCAN,
    Framer,
    FramerEvent,
    StreamEnd,
    StreamFault,
    StreamStart,
    WholeElement,
    new_framer,
)

if TYPE_CHECKING:
    from cxfr_proxy.xmpp.framing._scan import Scanner

HEADER = b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
END = b"</stream:stream>"


@pytest.fixture(autouse=True, scope="module", params=framer.ENGINE.names)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test here with every engine."""
    with using(framer.ENGINE, request.param):
        yield request.param


@dataclass
class Outcome:
    events: list[FramerEvent]
    boundary: int
    stanzas: int = 0

    def failure(self) -> StreamFault | None:
        return next((event for event in self.events if isinstance(event, StreamFault)), None)


def new_reader(limit: int | None = None, depth: int = 64) -> Framer:
    return new_framer(max_element_bytes=limit, max_depth=depth)


def read_header(reader: Framer, header: bytes = HEADER) -> None:
    assert reader.step(header) == len(header)
    assert reader.events == [StreamStart(0, len(header))]
    reader.events.clear()


def behind(reader: Framer, *, depth: int = 64) -> Framer:
    """The engine under test, behind the header."""
    read_header(reader)
    return framer.behind_header(reader, b"stream:stream", max_depth=depth)


def scan(body: bytes, sizes: list[int], *, limit: int | None = None, depth: int = 64) -> Outcome:
    """Return what scanning ``body`` reports, cut into pieces of the given sizes (the last repeats), offsets from the
    body."""
    reader = behind(new_reader(None, depth), depth=depth)
    reader.max_element_bytes = limit
    at, turn = 0, 0
    while at < len(body):
        size = sizes[min(turn, len(sizes) - 1)]
        reader.scan(body[at : at + size])
        at, turn = at + size, turn + 1
    return Outcome([_shift(event) for event in reader.events], reader.boundary - len(HEADER), reader.stanzas)


def _shift(event: FramerEvent) -> FramerEvent:
    start, end = event.start - len(HEADER), event.end - len(HEADER)
    match event:
        case WholeElement(name=name, stanzas=stanzas):
            return WholeElement(start, end, name, stanzas)
        case StreamFault(condition=condition, text=text):
            return StreamFault(start, end, condition, text)
        case StreamEnd():
            return StreamEnd(start, end)
        case StreamStart():
            return StreamStart(start, end)


ACK = b"<a xmlns='urn:xmpp:sm:3' h='4'/>"


@pytest.mark.parametrize(
    ("chunks", "ack"),
    [
        ([b"<iq/><abc/><r/><x:ab/><x:b/>"], None),
        ([ACK + b"<x:a h='5'/><iq/>"], b"<x:a h='5'/>"),
        ([b"<x:a h='5'/>", ACK + b"<iq/>"], ACK),
        ([b"<x:a h='5'", b"/>"], b""),
        ([b"<iq><a/></iq>" + ACK + b"<message><a/></message>"], ACK),
        ([b"<a h='1'/>" + ACK, b"<iq/>", b"<r/>"], ACK),
        ([b"<a h='1'></a>"], b"<a h='1'></a>"),
        ([b" <a h='1' /> <a"], b"<a h='1' />"),
        ([ACK[:9], ACK[9:]], b""),
        ([b"<a h='1'/>" + ACK[:-1], b">"], b""),
        ([ACK[:9], ACK[9:] + ACK, b"<iq"], ACK),
    ],
)
def test_the_last_ack_is_kept_if_it_came_in_one_chunk(chunks: list[bytes], ack: bytes | None) -> None:
    reader = behind(new_reader())
    for chunk in chunks:
        reader.scan(chunk)
    assert reader.ack == ack


@pytest.mark.parametrize(
    ("name", "stanzas"), [("iq", 1), ("x:iq", 1), ("x:y:iq", 1), ("iq:x", 0), ("xiq", 0), ("iq:", 0)]
)
def test_a_stanza_is_one_by_what_stands_behind_its_last_colon(name: str, stanzas: int) -> None:
    reader = behind(new_reader())
    reader.scan(f"<{name}/>".encode())
    assert reader.stanzas == stanzas


# body, boundary behind its last complete element, tags reported
WHOLE = {
    "nothing": (b"", 0, []),
    "one stanza": (b"<message><body>hi</body></message>", 34, []),
    "empty stanza": (b"<presence/>", 11, []),
    "empty, with attributes": (b"<presence a=\"/\" b='>' />", 24, []),
    "empty pair": (b"<iq></iq>", 9, []),
    "pair after a slash": (b"<iq a='/'></iq>", 15, []),
    "text that looks like the end of an empty tag": (b"<iq>/></iq>", 11, []),
    "such text, in CDATA": (b"<iq><![CDATA[/>]]></iq>", 23, []),
    "space in the end tag": (b"<iq></iq \n>", 11, []),
    "child of the same name": (b"<iq><iq/></iq><iq><iq></iq></iq>", 32, []),
    "keepalive": (b" \n \n", 4, []),
    "keepalive between": (b" <iq/> \n<iq/> ", 14, []),
    "unfinished": (b"<iq/><message><body>", 5, []),
    "unfinished tag": (b"<iq/> <mess", 6, []),
    "unfinished end tag": (b"<iq></i", 0, []),
    "acks": (b"<a xmlns='urn:xmpp:sm:3' h='1'/><r xmlns='urn:xmpp:sm:3'/>", 58, []),
    "unusual": (b"<iq/><enabled xmlns='urn:xmpp:sm:3'/>", 37, ["enabled"]),
    "unusual with children": (b"<stream:error><reset/></stream:error>", 37, ["stream:error"]),
    "prefixed stanza": (b"<x:iq xmlns:x='jabber:client'/><iq/>", 36, ["x:iq"]),
    "watched namespace": (b"<iq><query xmlns='urn:xmpp:cxfr'/></iq><iq/>", 44, ["iq"]),
    "watched text": (b"<message><body>urn:xmpp:cxfr</body></message>", 45, ["message"]),
    "watched twice": (b"<iq a='urn:xmpp:cxfrurn:xmpp:cxfr'/><iq/><iq b='urn:xmpp:cxfr'/>", 64, ["iq", "iq"]),
    "predefined entities": (b"<message><body>&lt;&amp;&gt;&quot;&apos;&#x41;</body></message>", 63, []),
    "not ASCII": ("<message><body>żółć 🙂</body></message>".encode(), 45, []),
}


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("name", ["u:a", "a:b:c", "a:", ":a", ":", "a::b"])
def test_names_are_those_of_xml_and_not_of_namespaces(name: str, size: int) -> None:
    """An undeclared prefix passes, and so does what is no qualified name: as element and as attribute."""
    body = f"<{name}/><message><{name} {name}='1'></{name}></message>".encode()
    outcome = scan(body, [size])
    assert outcome.failure() is None
    assert outcome.boundary == len(body)
    with pytest.raises(stanza.MalformedElement):  # so does nothing that the proxy reads itself
        stanza.parse(f"<{name}/>".encode(), HEADER)


def stanzas_of(body: bytes) -> int:
    """As lxml counts them."""
    names = [etree.QName(element).localname for element in etree.fromstring(HEADER + body + END)]
    return sum(name in framer.STANZAS for name in names)


@pytest.mark.parametrize("body", [pytest.param(value, id=key) for key, value in WHOLE.items()])
def test_boundaries_at_every_cut(body: tuple[bytes, int, list[str]]) -> None:
    data, boundary, reported = body
    whole = scan(data, [len(data) or 1])
    assert whole.boundary == boundary
    assert [event.name for event in whole.events if isinstance(event, WholeElement)] == reported
    assert len(whole.events) == len(reported)
    assert whole.stanzas == stanzas_of(data[:boundary])
    for event in whole.events:
        assert isinstance(event, WholeElement)
        assert event.stanzas == stanzas_of(data[: event.end])
        etree.fromstring(HEADER + data[event.start : event.end] + END)  # the offsets cut out exactly one element
    assert scan(data, [1]) == whole
    for cut in range(1, len(data)):
        assert scan(data, [cut, len(data)]) == whole, f"cut at {cut}"
        assert scan(data, [cut, 1]) == whole, f"cut at {cut}, then bytewise"


# The same for values that spell the watched bytes with references, or almost: body, tags reported
SPELT = {
    "by a decimal reference": (b"<iq><q xmlns='urn:xmpp&#58;cxfr'/></iq>", ["iq"]),
    "by a hexadecimal one": (b"<iq><q xmlns='urn:xmpp:&#x63;xfr'/></iq><iq/>", ["iq"]),
    "by its first": (b'<iq><c:q xmlns:c="&#0117;rn:xmpp:cxfr"/></iq>', ["iq"]),
    "by its last": (b"<iq><q xmlns = 'uurn:xmpp:cxf&#x00072;' /></iq>", ["iq"]),
    "by references alone": (b"<iq a='" + b"".join(b"&#%d;" % c for c in framer.WATCHED) + b"'/><iq/>", ["iq"]),
    "behind a beginning of it": (b"<iq a='urn:xmpurn:xmpp&#58;cxfr, a long text'/><iq/>", ["iq"]),
    "almost: one too many": (b"<iq a='urn:xmpp&#58;&#58;cxfr&#9;rn:xmpp:cxfr'/>", []),
    "almost: in two values": (b"<iq a='urn:xmpp&#58;' b='cxfr'/>", []),
    "almost: around an entity": (b"<iq a='urn:xmpp&#58;c&amp;xfr'/>", []),
    "almost: around what is not ASCII": ("<iq a='urn:xmpp&#58;cxfłr'/>".encode(), []),
    "almost: around a space": (b"<iq a='urn:xmpp&#58;cx fr'/>", []),
    "in a text": (b"<message><body>urn:xmpp&#58;cxfr</body></message>", []),
}


@pytest.mark.parametrize("body", [pytest.param(value, id=key) for key, value in SPELT.items()])
def test_values_are_watched_at_every_cut(body: tuple[bytes, list[str]]) -> None:
    test_boundaries_at_every_cut((body[0], len(body[0]), body[1]))


@pytest.mark.parametrize("junk", [b"", b"junk", b"<iq/>", b"\xff", b"<!-- x -->", b"<?x?>", b"</x>", b" " * 100])
@pytest.mark.parametrize("body", [b"", b"<iq/>", b"<iq></iq> "])
def test_stream_end_ignores_what_follows(body: bytes, junk: bytes) -> None:
    data = body + END + junk
    expected = Outcome([StreamEnd(len(body), len(body) + len(END))], len(body) + len(END), stanzas_of(body))
    assert scan(data, [len(data)]) == expected
    assert scan(data, [1]) == expected


# body that fails, boundary before the fault, condition
FAULTS = {
    "comment": (b"<iq/><!-- x -->", 5, "restricted-xml"),
    "comment inside": (b"<iq/><iq><!----></iq>", 5, "restricted-xml"),
    "processing instruction": (b"<iq/><?php x?>", 5, "restricted-xml"),
    "declaration again": (b"<iq/><?xml version='1.0'?>", 5, "restricted-xml"),
    "entity": (b"<iq>&nbsp;</iq>", 0, "restricted-xml"),
    "entity in an attribute": (b"<iq a='&x;'/>", 0, "restricted-xml"),
    "DTD": (b"<iq/><!DOCTYPE x>", 5, "not-well-formed"),  # XML itself has no place for it here
    "mismatch": (b"<iq/><a></b>", 5, "not-well-formed"),
    "not UTF-8": (b"<iq/><iq>\xff\xfe</iq>", 5, "not-well-formed"),
    "overlong": (b"<iq>\xc0\x80</iq>", 0, "not-well-formed"),
    "NUL": (b"<iq/>\x00", 5, None),
    "text": (b"<iq/> hello <iq/>", 6, "bad-format"),
    "text at the end": (b"<iq/> hello", 6, "bad-format"),
    "character reference between": (b"<iq/>&#32;<iq/>", 5, "bad-format"),
    "CDATA between": (b"<iq/><![CDATA[]]><iq/>", 5, "bad-format"),
    "closing twice": (b"<iq></iq></iq>", 9, "not-well-formed"),
    "same attribute twice": (b"<iq a='1' a='2'/>", 0, "not-well-formed"),
    "less-than in an attribute": (b"<iq a='<'/>", 0, "not-well-formed"),
}


@pytest.mark.parametrize("body", [pytest.param(value, id=key) for key, value in FAULTS.items()])
def test_faults_at_every_cut(body: tuple[bytes, int, str | None]) -> None:
    data, boundary, condition = body
    for sizes in [[len(data)], [1], *([cut, len(data)] for cut in range(1, len(data)))]:
        outcome = scan(data, sizes)
        failure = outcome.failure()
        assert failure is not None, sizes
        assert failure.start == outcome.boundary == boundary, sizes
        if condition is not None:
            assert failure.condition == condition, sizes
        assert failure is outcome.events[-1]


def test_nothing_is_read_after_a_failure() -> None:
    reader = behind(new_reader())
    reader.scan(b"<iq/><!---->")
    (failure,) = reader.events
    assert reader.scan(b"<iq/><iq/>") == 0
    assert reader.events == [failure]


@pytest.mark.parametrize("sizes", [[100_000], [1000], [7]])
def test_an_endless_tag_meets_the_limit_before_it_is_buffered(sizes: list[int]) -> None:
    outcome = scan(b"<iq/><iq a='" + b"x" * 5000, sizes, limit=1000)
    failure = outcome.failure()
    assert failure is not None
    assert (failure.condition, failure.start) == ("policy-violation", 5)


@pytest.mark.parametrize(("length", "fails"), [(100, False), (101, True)])
def test_element_size_limit_is_exact(length: int, fails: bool) -> None:
    element = b"<iq>" + b"x" * (length - 9) + b"</iq>"
    assert len(element) == length
    for size in (1, 10, 1000):
        assert (scan(element * 3, [size], limit=100).failure() is not None) == fails


@pytest.mark.parametrize(("depth", "fails"), [(63, False), (64, True), (10_000, True)])
def test_depth_limit(depth: int, fails: bool) -> None:
    body = b"<a>" * depth + b"</a>" * depth
    failure = scan(body, [4096], depth=64).failure()
    assert (failure is not None) == fails
    if failure is not None:
        assert failure.condition == "policy-violation"


def test_the_header_may_not_be_endless() -> None:
    reader = new_reader(limit=100)
    reader.step(b"<stream:stream " + b"a" * 200)
    (failure,) = reader.events
    assert isinstance(failure, StreamFault)
    assert failure.condition == "policy-violation"


@pytest.mark.parametrize(
    ("header", "condition"),
    [
        (b"<?xml version='1.0' encoding='latin1'?><stream:stream>", "unsupported-encoding"),
        (b"<!DOCTYPE x [<!ENTITY a 'b'>]><stream:stream>", "restricted-xml"),
        (b"<!-- x --><stream:stream>", "restricted-xml"),
        (b"GET / HTTP/1.1\r\n\r\n>", "not-well-formed"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03>", "not-well-formed"),
        (b"\x00\x00\x00\x00>", "unsupported-encoding"),
    ],
)
def test_bad_headers(header: bytes, condition: str) -> None:
    reader = new_reader()
    reader.step(header)
    failure = reader.events[0]
    assert isinstance(failure, StreamFault)
    assert failure.condition == condition


@pytest.mark.parametrize("declaration", ["", "<?xml version='1.0'?>", "<?xml version='1.0' encoding='UTF-16'?>"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("first", [1, 2, 3, 1000])
def test_only_utf8_is_read(encoding: str, mark: str, declaration: str, first: int) -> None:
    """RFC 6120 section 11.6. Expat follows a byte-order mark, and NULs, whatever it was told."""
    data = (mark + declaration + HEADER.decode().partition("?>")[2] + "<iq/>").encode(encoding)
    reader = new_reader()
    for piece in (data[:first], data[first:]):
        while piece and not reader.events:
            piece = piece[reader.step(piece) :]
    (failure,) = reader.events
    assert isinstance(failure, StreamFault)
    assert failure.condition == "unsupported-encoding"


@pytest.mark.parametrize("end", [2, 1000])
def test_ebcdic_is_not_read(end: int) -> None:
    data = "<?xml version='1.0' encoding='cp037'?><a>".encode("cp037")
    reader = new_reader()
    reader.step(data[:end])
    reader.step(data[end:])
    failure = reader.events[0]
    assert isinstance(failure, StreamFault)
    assert failure.condition == "unsupported-encoding"


@pytest.mark.parametrize("space", [b"", b" \n"])
def test_a_byte_order_mark_of_utf8_is_a_character_in_front_of_the_stream(space: bytes) -> None:
    """RFC 6120 section 11.6: U+FEFF is no such mark, not even as the first character. Expat passes over it."""
    data = space + b"\xef\xbb\xbf" + HEADER
    for size in (1, 2, 3, 1000):
        reader = new_reader()
        for at in range(0, len(data), size):
            if not reader.events:
                reader.step(data[at : at + size])
        failure = reader.events[0]
        assert isinstance(failure, StreamFault)
        assert failure.condition == "not-well-formed"


def test_empty_stream_element_is_refused() -> None:
    reader = new_reader()
    reader.step(b"<stream:stream/>")
    assert isinstance(reader.events[-1], StreamFault)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_step_notes_every_element_and_reads_no_further(size: int) -> None:
    data = HEADER + b"<auth>AA==</auth> <iq><bind/></iq><r/>" + END
    reader = behind(new_reader())
    pending, seen, at = data[len(HEADER) :], [HEADER], len(HEADER)
    while pending:
        used = reader.step(pending[:size])
        pending, at = pending[used:], at + used
        if reader.events:
            (event,) = reader.events
            assert event.end == at, "not a byte beyond the element"
            seen.append(data[event.start : event.end])
            reader.events.clear()
    assert seen == [HEADER, b"<auth>AA==</auth>", b"<iq><bind/></iq>", b"<r/>", END]


# --- against what was built: random elements, known boundaries, random cuts

_names = st.sampled_from(["message", "presence", "iq", "a", "r", "enabled", "x", "ns:y"])
_texts = st.text(alphabet=st.sampled_from("ab/>'\"]urn:xmpcf é🙂\n"), max_size=12)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;").replace("]]>", "]]&gt;")


def _element(name: str, attributes: list[str], content: list[str], empty: bool) -> str:
    written = "".join(f' a{number}="{_escape(value)}"' for number, value in enumerate(attributes))
    if empty:
        return f"<{name}{written}/>"
    return f"<{name}{written}>{''.join(content)}</{name}>"


_leaf = st.builds(
    _element, _names, st.lists(_texts, max_size=2), st.lists(_texts.map(_escape), max_size=2), st.booleans()
)
_tree = st.recursive(
    _leaf,
    lambda inner: st.builds(
        _element,
        _names,
        st.lists(_texts, max_size=2),
        st.lists(inner | _texts.map(_escape), max_size=3),
        st.just(False),
    ),
    max_leaves=6,
)
_space = st.sampled_from(["", "", " ", "\n", " \t\r\n"])


@given(st.lists(st.tuples(_tree, _space), max_size=5), st.lists(st.integers(1, 40), min_size=1, max_size=8))
@settings(max_examples=300)
def test_boundaries_of_built_streams(parts: list[tuple[str, str]], sizes: list[int]) -> None:
    reader = behind(new_reader())
    body = "".join(element + space for element, space in parts).encode()
    positions, at = {0}, 0  # every boundary there is
    for element, space in parts:
        at += len(element.encode())
        positions.add(at)
        positions.update(range(at, at + len(space) + 1))
        at += len(space)
    fed, turn = 0, 0
    while fed < len(body):
        size = sizes[turn % len(sizes)]
        reader.scan(body[fed : fed + size])
        fed, turn = min(len(body), fed + size), turn + 1
        expected = max(position for position in positions if position <= fed)
        assert reader.boundary - len(HEADER) == expected
    for event in reader.events:
        assert isinstance(event, WholeElement)
        cut = body[event.start - len(HEADER) : event.end - len(HEADER)]
        assert event.name not in ("message", "presence", "iq", "a", "r") or b"urn:xmpp:cxfr" in cut
    assert len(reader.events) == sum(
        element[1:].split(" ")[0].split(">")[0].rstrip("/") not in ("message", "presence", "iq", "a", "r")
        or "urn:xmpp:cxfr" in element
        for element, _ in parts
    )


_WATCHED = "urn:xmpp:cxfr"
_spellings = (
    st.sampled_from([_WATCHED, "", "u", "urn:xmp", "p:cxfr", "cxf", "é", "\n", "&", "long " * 6])
    .flatmap(lambda part: st.tuples(*(st.tuples(st.just(c), st.sampled_from("tttdh")) for c in part)))
    .map(lambda part: [(c, how) for c, how in part])
)


def _spell(character: str, how: str) -> str:
    return {"t": _escape(character), "d": f"&#{ord(character)};", "h": f"&#x{ord(character):03x};"}[how]


@given(st.lists(_spellings, max_size=6), st.lists(st.integers(1, 40), min_size=1, max_size=4))
@settings(max_examples=500)
def test_a_value_is_watched_for_what_it_says_however_it_is_spelt(
    parts: list[list[tuple[str, str]]], sizes: list[int]
) -> None:
    spelt = "".join(_spell(*each) for part in parts for each in part)
    said = "".join(character for part in parts for character, _ in part)
    element = f'<iq><q x="{spelt}"/></iq>'.encode()
    outcome = scan(b"<iq/>" + element + b"<iq/>", sizes)
    expected = [WholeElement(5, 5 + len(element), "iq", 2)] if _WATCHED in said else []
    assert outcome.events == expected
    assert outcome.boundary == len(element) + 10


@given(st.binary(max_size=60), st.lists(st.integers(1, 30), min_size=1, max_size=4))
@settings(max_examples=500)
def test_judges_hostile_bytes_as_lxml_does_however_cut(body: bytes, sizes: list[int]) -> None:
    _compare_with_lxml(body, sizes)


_hostile = st.lists(
    st.sampled_from(
        [
            b"<iq>",
            b"</iq>",
            b"<iq/>",
            b"<a b='",
            b"'",
            b'"',
            b">",
            b"/>",
            b"<",
            b"&amp;",
            b"&#x0;",
            b"&x;",
            b" ",
            b"\n",
            b"<![CDATA[",
            b"]]>",
            b"</",
            b"\xc3",
            b"\xa9",
            b"x",
            b"<!--",
            b"-->",
            b"<?",
            b"?>",
            b"xmlns='u'",
            b"urn:xmpp:cxfr",
            b"urn:xmpp&#58;cxfr",
            b"&#x75;rn:xmpp:",
            b"cxf&#114;",
            END,
        ]
    ),
    max_size=14,
).map(b"".join)


@given(_hostile, st.lists(st.integers(1, 30), min_size=1, max_size=4))
@settings(max_examples=1500)
def test_judges_hostile_tokens_as_lxml_does_however_cut(body: bytes, sizes: list[int]) -> None:
    _compare_with_lxml(body, sizes)


def _compare_with_lxml(body: bytes, sizes: list[int]) -> None:
    whole, cut = scan(body, [len(body) or 1]), scan(body, sizes)
    assert cut.boundary == whole.boundary
    if framer.ENGINE.chosen == "native":
        _compare_with_expat(body, sizes, cut)
    assert [n for n in cut.events if not isinstance(n, StreamFault)] == [
        n for n in whole.events if not isinstance(n, StreamFault)
    ]
    assert (cut.failure() is None) == (whole.failure() is None)
    # The independent judge: what lies before the boundary is a well-formed stream without restricted XML.
    stream = HEADER + body[: whole.boundary]
    if not any(isinstance(event, StreamEnd) for event in whole.events):
        stream += END
    try:
        root = etree.fromstring(stream, etree.XMLParser(resolve_entities=False))
    except etree.XMLSyntaxError as exc:
        if "Failed to parse QName" not in str(exc):
            raise
        return  # a tag like <a:b:c/>: well-formed, and no name that lxml can hold. It passes, for the node to refuse
    assert all(isinstance(node.tag, str) for node in root.iter())
    if whole.failure() is None and not whole.events and whole.boundary == len(body):
        return
    if whole.failure() is not None:
        # And a failure is one: no continuation makes the whole body a stream of elements and white space.
        assert not _is_clean_stream(HEADER + body + END)


def _is_clean_stream(stream: bytes) -> bool:
    try:
        root = etree.fromstring(stream, etree.XMLParser(resolve_entities=False))
    except etree.XMLSyntaxError:
        return False
    if any(not isinstance(node.tag, str) for node in root.iter()) or b"<![CDATA[" in stream or b"&#" in stream:
        return False
    texts = [root.text or "", *(node.tail or "" for node in root)]
    return not any(text.strip(" \t\r\n") for text in texts)


def _compare_with_expat(body: bytes, sizes: list[int], native: Outcome) -> None:
    with using(framer.ENGINE, "expat"):
        expat = scan(body, sizes)
    assert native.boundary == expat.boundary
    assert [n for n in native.events if not isinstance(n, StreamFault)] == [
        n for n in expat.events if not isinstance(n, StreamFault)
    ]
    if expat.failure() is not None:
        assert native.failure() is not None


def test_which_characters_names_may_hold() -> None:
    """The native engine's table is asked about every character of the basic plane, and some beyond."""
    characters = [*range(0x21, 0xD800), *range(0xE000, 0x10000), 0x10000, 0xE0100, 0x10FFFF]
    for character in characters:
        if chr(character) in "!/>='\"<&?":
            continue  # markup, not names
        for name in (chr(character), f"a{chr(character)}"):
            element = f"<{name}/>".encode()
            assert (scan(element, [len(element)]).failure() is None) == _expat_takes(element), hex(character)


def _expat_takes(element: bytes) -> bool:
    parser = expat.ParserCreate("UTF-8")
    try:
        parser.Parse(element, True)
    except expat.ExpatError:
        return False
    return True


@pytest.mark.parametrize(("count", "fails"), [(100, False), (101, True)])
def test_attributes_are_counted(count: int, fails: bool) -> None:
    element = "<iq" + "".join(f" a{number}='{number}'" for number in range(count)) + "/>"
    for size in (7, 10_000):
        failure = scan(element.encode(), [size]).failure()
        assert (failure is not None) == fails
        assert failure is None or failure.condition == "policy-violation"


def test_long_streams_are_read_to_their_end() -> None:
    """The engine on expat takes a new parser every quarter of a megabyte."""
    reader = behind(new_reader())
    body = b"".join(b"<iq id='%d'><x%d>/></x%d></iq> " % (n, n, n) for n in range(20_000)) + b"<other/>" + END
    fed = 0
    for size in (1, 17, 4096, 65_536) * 20:
        boundary = reader.scan(body[fed : fed + size])
        assert boundary <= size
        fed += size
    reader.scan(body[fed:])
    element, end = reader.events
    assert (element.start, element.end) == (len(HEADER + body) - len(END) - 8, len(HEADER + body) - len(END))
    assert isinstance(end, StreamEnd)
    assert reader.boundary == len(HEADER + body)


# --- runs that are longer than what is looked at in one go; the watched bytes at every place of them

LONG = {
    "text": (b"<message><body>", b"</body></message>"),
    "value": (b"<message a='", b"'/>"),
    "CDATA": (b"<message><![CDATA[", b"]]></message>"),
    "attribute's name": (b"<message n", b"='1'/>"),
    "child's name": (b"<message><n", b"/></message>"),
}


@pytest.mark.parametrize("around", [pytest.param(value, id=key) for key, value in LONG.items()])
def test_watched_bytes_are_found_wherever_they_lie(around: tuple[bytes, bytes]) -> None:
    before, behind_it = around
    for filled in range(150):
        for watched, reported in ((b"urn:xmpp:cxfr", 1), (b"urn:xmpp:xcfr", 0), (b"u" * 12 + b"r", 0)):
            for left, right in (b"ur", b"zz"):  # what may be its beginning and end, and what may not
                run = bytes([left]) * filled + watched + bytes([right]) * (150 - filled)
                body = before + run + behind_it + b"<iq/>"
                for sizes in ([len(body)], [len(before) + filled + 6, 500]):
                    outcome = scan(body, sizes)
                    assert len(outcome.events) == reported, (run, sizes)
                    assert outcome.boundary == len(body), (run, sizes)


@pytest.mark.parametrize("around", [pytest.param(value, id=key) for key, value in LONG.items()])
@pytest.mark.parametrize("odd", [b"<", b"\x00", b"\x1f", b"\xff", b"&"])
def test_what_no_run_may_hold_is_found_wherever_it_lies(around: tuple[bytes, bytes], odd: bytes) -> None:
    before, behind_it = around
    for filled in range(150):
        body = before + b"a" * filled + odd + b"a" * (150 - filled) + behind_it + b"<iq/>"
        allowed = b"CDATA" in before and odd in (b"<", b"&")
        assert (scan(body, [len(body)]).failure() is None) == allowed, body


def test_a_chunk_of_many_elements_is_read_stepwise_in_linear_time() -> None:
    """Each step reads the element it reports and no more; the rest of the chunk is not looked through again."""

    def seconds(count: int) -> float:
        reader, chunk = behind(new_reader()), b"<a/>" * count
        best = float("inf")
        for _ in range(5):
            began = time.thread_time()  # not what others take of the machine meanwhile
            for _ in range(1000):
                reader.step(chunk)
                reader.events.clear()
            best = min(best, time.thread_time() - began)
        return best

    assert seconds(200_000) < 20 * seconds(1_000)


# --- the native engine and a caller that does what it should not


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


# --- much to report


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("every", [False, True])
def test_a_scan_stops_where_it_has_noted_much(every: bool, size: int) -> None:
    """Then it goes on, and nothing is missed, met twice, or said of the wrong element."""
    element = b"<iq/>" if every else b"<message id='urn:xmpp:cxfr'/>"
    body = (element + b"<presence/> \n") * 200 + b"</stream:stream>"
    reader = behind(new_reader())
    reader.every = every
    events: list[FramerEvent] = []
    unread, seen = b"", 0
    for at in range(0, len(body), size):
        unread += body[at : at + size]
        while unread:
            before = reader.position
            boundary = reader.scan(unread)
            used = reader.position - before
            made, reader.events = reader.events, []
            assert len(made) <= MAX_EVENTS_PER_SCAN
            if used < len(unread):
                assert (len(made), made[-1].end, boundary) == (MAX_EVENTS_PER_SCAN, reader.position, used)
            unread, events = unread[used:], events + made
            seen += used
    assert seen == len(body)
    names = [event.name for event in events[:-1] if isinstance(event, WholeElement)]
    assert names == (["iq", "presence"] * 200 if every else ["message"] * 200)
    assert isinstance(events[-1], StreamEnd)
    cut = {body[event.start - len(HEADER) : event.end - len(HEADER)] for event in events[0 : -1 : 1 + every]}
    assert cut == {element}
    assert reader.stanzas == 400


def test_both_engines_stop_behind_as_many() -> None:
    scan_module = pytest.importorskip("cxfr_proxy.xmpp.framing._scan")
    assert scan_module.MAX_EVENTS_PER_SCAN == MAX_EVENTS_PER_SCAN


@pytest.mark.parametrize("where", ["header", "element"])
def test_a_value_full_of_what_could_end_a_tag_is_read_once(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expat reads an unfinished tag anew with each piece of it."""
    pieces: list[bytes] = []
    parse = ExpatFramer._parse

    def counted(self: ExpatFramer, data: bytes) -> None:
        pieces.append(data)
        parse(self, data)

    monkeypatch.setattr(ExpatFramer, "_parse", counted)
    reader = new_reader()
    if where == "element":
        reader = behind(reader)
        pieces.clear()
        assert reader.step(b"<iq a='" + b">" * 10_000) == 10_007
    else:
        assert reader.step(HEADER[:-1] + b" a='" + b">" * 10_000) == len(HEADER) + 10_003
    assert len(pieces) <= 3
