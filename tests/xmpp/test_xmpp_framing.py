"""Framing: every vector whole, byte by byte, at every cut, and with junk behind it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from engines import using
from framing_tools import END, HEADER, Outcome, behind, new_reader, scan
from lxml import etree

from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.framing import framer
from cxfr_proxy.xmpp.framing._expat import ExpatFramer
from cxfr_proxy.xmpp.framing.framer import (
    MAX_EVENTS_PER_SCAN,
    FramerEvent,
    StreamEnd,
    StreamFault,
    WholeElement,
)

if TYPE_CHECKING:
    pass


@pytest.fixture(autouse=True, scope="module", params=framer.ENGINE.names)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test here with every engine."""
    with using(framer.ENGINE, request.param):
        yield request.param


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
