"""RFC 7395: messages from a client become a stream, and a stream becomes messages that stand alone."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from engines import using
from lxml import etree
from websocket_client import CLOSE, FRAMING, OPEN, PING, PONG, Browser, closing, fragments, masked, more, text

from cxfr_proxy.errors import NodeError
from cxfr_proxy.xmpp.framing import framer
from cxfr_proxy.xmpp.framing.events import StreamEnd, WholeElement
from cxfr_proxy.xmpp.framing.lane import Lane
from cxfr_proxy.xmpp.opening import usual_header
from cxfr_proxy.xmpp.websocket.stream import WebSocketStream

HEADER = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
    b"id='x1' from='example.org' version='1.0' xml:lang='en'>"
)
END = b"</stream:stream>"
XMLNS = b' xmlns="jabber:client"'
STREAMS = b' xmlns:stream="http://etherx.jabber.org/streams"'
LANG = b' xml:lang="en"'


@pytest.fixture(autouse=True, scope="module", params=framer.ENGINE.names)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test here with every engine."""
    with using(framer.ENGINE, request.param):
        yield request.param


def new_stream(limit: int | None = 262_144) -> WebSocketStream:
    return WebSocketStream(max_message_bytes=limit, max_depth=64)


def opened() -> WebSocketStream:
    stream = new_stream()
    assert stream.receive(text(OPEN))
    return stream


# --- from the client


def test_open_becomes_a_usual_header() -> None:
    message = f"<open xmlns='{FRAMING}' to='example.org' from='a@example.org' version='1.0' xml:lang='de'/>".encode()
    for cut in range(1, len(message)):
        stream = new_stream()
        header = stream.receive(text(message[:cut], final=False)) + stream.receive(more(message[cut:]))
        attributes = usual_header.attributes(header)
        assert attributes is not None
        assert attributes["to"] == "example.org"
        assert attributes["from"] == "a@example.org"
        assert attributes["version"] == "1.0"
        assert attributes["xml:lang"] == "de"


def test_values_are_escaped_again() -> None:
    header = new_stream().receive(text(f"<open xmlns='{FRAMING}' to='a&amp;&quot;&lt;b'/>".encode()))
    root = etree.fromstring(header + END)
    assert root.get("to") == 'a&"<b'
    assert root.nsmap == {None: "jabber:client", "stream": "http://etherx.jabber.org/streams"}


def test_a_second_open_is_a_restart() -> None:
    stream = opened()
    auth = b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGEAYg==</auth>"
    data = stream.receive(text(auth) + text(OPEN) + text(b"<iq/>") + text(CLOSE))
    lane = Lane(max_element_bytes=None, max_depth=64)
    lane.feed(data)
    piece = lane.next()
    assert piece is None or not isinstance(piece.event, StreamEnd)
    header = new_stream().receive(text(OPEN))
    assert data == auth + header + b"<iq/>" + END


def test_what_follows_close_is_dropped() -> None:
    stream = opened()
    assert stream.receive(text(CLOSE) + text(b"<iq/>") + text(b"x") + text(OPEN)) == END
    assert stream.fault is None
    stream.receive(closing())
    assert stream.is_over
    assert stream.close_code == 1000


@pytest.mark.parametrize(
    "element",
    [
        b"<iq xmlns='jabber:client'/>",
        b"<a>&lt;b/&gt;</a>\n",
        b"<openness/>",
        b"<closet><open/></closet>",
        b"<o/>",
        b"<c/>",
        b"<open xmlns='urn:other'/>",
        b"<close xmlns='urn:other'><x/></close>",
        "<\u00e4\u00f6 \u00fc='\u20ac'/>".encode(),
        b"<a><![CDATA[<b/>]]></a>",
    ],
)
def test_an_element_passes_as_it_is(element: bytes) -> None:
    for size in (*range(1, 9), len(element)):
        stream = opened()
        assert stream.receive(fragments(element, size)) == element
        assert stream.receive(text(b"<next/>")) == b"<next/>"
        assert stream.fault is None


@pytest.mark.parametrize(
    ("message", "condition"),
    [
        (b"<a/><b/>", "bad-format"),
        (b"<a/>x", "bad-format"),
        (b"<a>", "bad-format"),
        (b"<a/", "bad-format"),
        (b"<", "bad-format"),
        (b"hello", "bad-format"),
        (b" <a/>", "bad-format"),
        (b" ", "bad-format"),
        (b"", "bad-format"),
        (b"</stream:stream>", "bad-format"),
        (b"<stream:stream>", "bad-format"),
        (b"<stream:stream/>", "bad-format"),
        (b"<?xml version='1.0'?><a/>", None),
        (b"<!-- a comment -->", "restricted-xml"),
        (b"<a></b>", "not-well-formed"),
        (b"<a><b></a></b>", "not-well-formed"),
        (f"<open xmlns='{FRAMING}'><a/></open>".encode(), "bad-format"),
        (f"<open xmlns='{FRAMING}'>x</open>".encode(), "bad-format"),
        (f"<open xmlns='{FRAMING}'".encode(), "not-well-formed"),
        (f"<open xmlns='{FRAMING}'/><a/>".encode(), "not-well-formed"),
        (f"<open xmlns='{FRAMING}' a='{'x' * 8_192}'/>".encode(), "policy-violation"),
        (b"<open a='" + b"x" * 8_192 + b"'/>", "policy-violation"),
    ],
)
def test_a_message_that_is_no_element(message: bytes, condition: str | None) -> None:
    for size in (1, 2, 3, 5, max(1, len(message))):
        stream, browser = opened(), Browser()
        data = stream.receive(text(b"<before/>") + fragments(message, size) + text(b"<behind/>") + masked(PING))
        assert data.startswith(b"<before/>")
        assert b"behind" not in data
        assert stream.fault is not None
        assert condition in (None, stream.fault.condition)
        # It is answered as a fault of the stream, and the frames go on until the client closes.
        out = stream.send(
            HEADER + b"<stream:error><bad-format xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>"
        )
        heard = browser.receive(out + stream.own() + stream.send(END))
        assert [message[:13] for message in heard.messages] == ['<open xmlns="', "<stream:error", "<close xmlns="]
        assert heard.pongs == [b""]
        stream.receive(closing(1001))
        assert stream.is_over


@pytest.mark.parametrize("message", [b"<iq/>", b"<stream:stream to='a'>", CLOSE, b"<a", b"x"])
def test_before_open_nothing_goes_through(message: bytes) -> None:
    stream = new_stream()
    assert stream.receive(fragments(message, 2)) == b""
    assert stream.fault is not None
    assert stream.fault.condition == "bad-format"


# --- to the client


def told(*chunks: bytes) -> list[bytes]:
    """The messages that come of a stream in these chunks."""
    stream, browser = new_stream(), Browser()
    for chunk in chunks:
        browser.receive(stream.send(chunk))
    assert not browser.heard.unfinished
    return [message.encode() for message in browser.heard.messages]


def test_the_tags_of_the_stream() -> None:
    assert told(HEADER, END) == [
        f'<open xmlns="{FRAMING}" from="example.org" id="x1" version="1.0" xml:lang="en" />'.encode(),
        # strophe.js compares these bytes.
        b'<close xmlns="urn:ietf:params:xml:ns:xmpp-framing" />',
    ]


def test_see_other_uri() -> None:
    stream, browser = new_stream(), Browser()
    stream.see_other_uri = "wss://b.example.org:5443/xmpp-websocket?a&b"
    browser.receive(stream.send(HEADER + END))
    assert browser.heard.messages[1] == (
        f'<close xmlns="{FRAMING}" see-other-uri="wss://b.example.org:5443/xmpp-websocket?a&amp;b" />'
    )


@pytest.mark.parametrize(
    ("element", "message"),
    [
        (b"<message to='a'>x</message>", b"<message" + XMLNS + LANG + b" to='a'>x</message>"),
        (b"<iq/>", b"<iq" + XMLNS + LANG + b"/>"),
        (b"<iq xmlns='jabber:client' xml:lang='de'/>", b"<iq xmlns='jabber:client' xml:lang='de'/>"),
        (
            b"<iq\nxmlns = \"jabber:client\"\txml:lang\n=\n'de'  />",
            b"<iq\nxmlns = \"jabber:client\"\txml:lang\n=\n'de'  />",
        ),
        (b"<r xmlns='urn:xmpp:sm:3'/>", b"<r xmlns='urn:xmpp:sm:3'/>"),
        (b"<message a=\" xmlns='x'>\"/>", b"<message" + XMLNS + LANG + b" a=\" xmlns='x'>\"/>"),
        (b"<stream:features/>", b"<stream:features" + XMLNS + STREAMS + b"/>"),
        (
            b"<stream:error xmlns:stream='http://etherx.jabber.org/streams'/>",
            b"<stream:error" + XMLNS + b" xmlns:stream='http://etherx.jabber.org/streams'/>",
        ),
        (b"<iq><stream:x/></iq>", b"<iq" + XMLNS + STREAMS + LANG + b"><stream:x/></iq>"),
    ],
)
def test_an_element_stands_alone(element: bytes, message: bytes) -> None:
    assert told(HEADER, element)[1:] == [message]
    assert told(HEADER + element + b" \n" + element)[1:] == [message] * 2
    etree.fromstring(message)


def test_no_language_where_the_stream_has_none() -> None:
    assert told(HEADER.replace(b" xml:lang='en'", b""), b"<iq/>")[1:] == [b"<iq" + XMLNS + b"/>"]


def test_a_header_of_another_form() -> None:
    header = (
        b"<s:stream xmlns:s='http://etherx.jabber.org/streams' xmlns='jabber:client' xmlns:x='urn:x' "
        b"from='a&amp;b' \xc3\xa4='1'>"
    )
    body = b"<s:features/><x:y/><iq/></s:stream>"
    streams, other = b' xmlns:s="http://etherx.jabber.org/streams"', b' xmlns:x="urn:x"'
    assert (
        told(*(bytes((each,)) for each in header + body))[1:]
        == told(header + body)[1:]
        == [
            b"<s:features" + XMLNS + streams + b"/>",
            b"<x:y" + XMLNS + other + b"/>",
            b"<iq" + XMLNS + b"/>",
            f'<close xmlns="{FRAMING}" />'.encode(),
        ]
    )


def test_a_header_that_declares_as_many_prefixes_as_it_may() -> None:
    prefixes = 15
    declared = b"".join(b" xmlns:p%d='urn:%d'" % (n, n) for n in range(1, prefixes))
    header = b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'" + declared + b">"
    last = b"<p%d:x a='p1:'/>" % (prefixes - 1)
    messages = told(header, b"<iq/>" + last)[1:]
    assert messages[0] == b"<iq" + XMLNS + b"/>"
    root = etree.fromstring(messages[1])
    assert root.tag == f"{{urn:{prefixes - 1}}}x"
    assert set(root.nsmap) == {None, "p1", f"p{prefixes - 1}"}


@pytest.mark.parametrize("count", [63, 64, 65, 128, 1000])
def test_many_elements_at_once(count: int) -> None:
    elements = [b"<message id='%d'>%b</message>" % (n, b"x" * (n % 131)) for n in range(count)]
    alone = [element.replace(b"<message", b"<message" + XMLNS + LANG) for element in elements]
    assert told(HEADER, b"".join(elements))[1:] == alone
    assert told(HEADER, b" \n".join(elements) + b" ")[1:] == alone


def test_a_restart_and_white_space() -> None:
    stream = HEADER + b"<success xmlns='urn:x'/> \n" + HEADER + b" <iq/>\n" + END
    whole = told(stream)
    assert [message[:6] for message in whole] == [b"<open ", b"<succe", b"<open ", b"<iq xm", b"<close"]


def test_every_cut() -> None:
    stream = HEADER + b"<success xmlns='urn:x'/>" + HEADER + b"<message a='>'>stream:</message><stream:features/>" + END
    whole = told(stream)
    for cut in range(len(stream)):
        messages = told(stream[:cut], stream[cut:])
        assert [etree.tostring(etree.fromstring(each), method="c14n") for each in messages] == [
            etree.tostring(etree.fromstring(each), method="c14n") for each in whole
        ] or b"xmlns:stream" in messages[3]  # declared without need, where the rest was not known


def test_an_element_that_is_cut_through_goes_out_in_fragments() -> None:
    stream, browser = new_stream(), Browser()
    body = b"x" * 100_000
    browser.receive(stream.send(HEADER))
    browser.receive(stream.send(b"<message to='a"))
    assert browser.heard.unfinished == "", "its start tag is not whole"
    browser.receive(stream.send(b"'><body>" + body))
    begun = browser.heard.unfinished.encode()
    assert begun == b"<message" + XMLNS + STREAMS + LANG + b" to='a'><body>" + body
    stream.receive(masked(PING, b"between"))
    browser.receive(stream.own())
    assert browser.heard.pongs == [b"between"]
    browser.receive(stream.send(body))
    browser.receive(stream.send(b"</body></message><iq/>"))
    assert browser.heard.messages[1].encode() == begun + body + b"</body></message>"
    assert browser.heard.messages[2].encode() == b"<iq" + XMLNS + LANG + b"/>"


@pytest.mark.parametrize("data", [b"<iq/>", HEADER + b"<a></b>", HEADER + b"x"])
def test_what_is_no_stream_is_refused(data: bytes) -> None:
    stream = new_stream()
    with pytest.raises(NodeError):
        stream.send(data + b" " * 3)


def test_nothing_behind_the_end() -> None:
    assert len(told(HEADER + END + b"<iq/>", b"<iq/>")) == 2


# --- frames of the proxy's own


def test_end() -> None:
    for stream_end, code in ((b"", 1001), (END, 1000)):
        stream, browser = new_stream(), Browser()
        stream.send(HEADER + stream_end)
        stream.end()
        stream.end()
        assert browser.receive(stream.own()).close_code == code
        assert not stream.has_own
        assert stream.own() == b""
        assert stream.send(b"<iq/>") == b""
        stream.receive(masked(PING) + closing(code))
        assert stream.own() == b""
        assert stream.is_over


def test_pings() -> None:
    stream, browser = opened(), Browser()
    states = [(stream.awaits_pong, stream.has_own)]
    stream.ping()
    stream.ping()
    states.append((stream.awaits_pong, stream.has_own))
    assert browser.receive(stream.own()).pings == [b""]
    states.append((stream.awaits_pong, stream.has_own))
    stream.receive(masked(PONG))
    states.append((stream.awaits_pong, stream.has_own))
    assert states == [(False, False), (True, True), (True, False), (False, False)]


def test_of_many_pings_the_last_are_answered() -> None:
    stream, browser = opened(), Browser()
    stream.receive(b"".join(masked(PING, b"%d" % index) for index in range(1000)))
    assert browser.receive(stream.own()).pongs == [b"%d" % index for index in range(984, 1000)]


# --- both ways


@pytest.mark.parametrize("seed", range(40))
def test_random_stories(seed: int) -> None:
    """However elements are put into frames and frames into chunks, the same stream comes of it; and back again."""
    chance = random.Random(seed)
    elements = [random_element(chance) for _ in range(30)]
    wire = b"".join(
        fragments(each, chance.choice((1, 5, 100, 10_000))) + masked(PONG, b"x") * chance.randrange(2)
        for each in elements
    )
    stream, data, back, browser = opened(), b"", new_stream(), Browser()
    back.send(HEADER)
    while wire:
        size = chance.choice((1, 7, 200, 5000))
        piece, wire = stream.receive(wire[:size]), wire[size:]
        data += piece
        browser.receive(back.send(piece))
    assert data == b"".join(elements)
    assert [untangled(each.encode()) for each in browser.heard.messages] == list(map(untangled, elements))


def random_element(chance: random.Random) -> bytes:
    name = chance.choice((b"iq", b"message", b"a", b"open", b"closed"))
    body = chance.choice((b"", "\u00e4\u20ac\U0001f600".encode() * 40, b"<x>]]&gt;</x>", b"y" * chance.randrange(3000)))
    lang = b" xml:lang='de' xmlns='jabber:client'"
    return b"<" + name + lang + b">" + body + b"</" + name + b">" if body else b"<" + name + lang + b"/>"


def untangled(element: bytes) -> bytes:
    """Without declarations that nothing uses."""
    root = etree.fromstring(element)
    etree.cleanup_namespaces(root)
    return etree.tostring(root)


def test_events_are_not_kept() -> None:
    """The framers inside report each element; nobody else clears that."""
    stream = opened()
    stream.send(HEADER)
    for _ in range(3):
        stream.receive(text(b"<iq/>") * 10)
        stream.send(b"<iq/>" * 10)
    assert not any(isinstance(event, WholeElement) for event in stream._messages._framer.events)
