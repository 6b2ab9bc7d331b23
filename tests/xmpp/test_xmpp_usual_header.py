"""Headers read at a glance. lxml's reading of the same bytes, and the end that expat finds, are the judges."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lxml import etree

from cxfr_proxy.errors import ClientError
from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.framing import _expat
from cxfr_proxy.xmpp.framing.events import StreamFault, StreamStart
from cxfr_proxy.xmpp.framing.lane import Lane
from cxfr_proxy.xmpp.opening import header as headers
from cxfr_proxy.xmpp.opening.usual_header import CONTEXT, MAX_BYTES, attributes, glance

STREAMS = "http://etherx.jabber.org/streams"
NS = f"xmlns='jabber:client' xmlns:stream='{STREAMS}'"

USUAL = [
    f"<?xml version='1.0'?><stream:stream {NS} to='example.org' version='1.0'>",
    f"<?xml version='1.0' ?>\n<stream:stream to='example.org' {NS} version='1.0' xml:lang='en' >",
    f'<?xml version="1.0" encoding="utf-8"?> <stream:stream {NS} from="a@b.c" to="b.c" id="x+/=" version="1.0">',
    f"<?xml version='1.0' encoding='UTF-8'?><stream:stream {NS}>",
    f"<stream:stream\n\t{NS}\r\n from = 'example.org' id='' version='1.0'>",
]
"""As programs write them."""
UNUSUAL = [
    f"<stream:stream {NS} to='example.org'",
    f"<stream:stream {NS} to='example.org' to='example.org'>",
    f"<stream:stream {NS} to='a&amp;b'>",
    f"<stream:stream {NS} to='a>b'>",
    f"<stream:stream {NS} to='a<b'>",
    f"<stream:stream {NS} to='ex\u00e4mple.org'>",
    f"<stream:stream {NS} to='a\tb'>",
    f"<stream:stream {NS} xmlns:x='urn:x'>",
    f"<stream:stream {NS} other='x'>",
    f"<stream:stream {NS}/>",
    f"<stream:stream {NS}to='x'>",
    f"<stream:stream {NS} to=x>",
    f"<stream:stream {NS.replace('client', 'server')}>",
    f"<stream:stream xmlns:stream='{STREAMS}'>",
    "<stream:stream xmlns='jabber:client'>",
    f"<s:stream xmlns='jabber:client' xmlns:s='{STREAMS}'>",
    f"<stream:streams {NS}>",
    f"<!-- --><stream:stream {NS}>",
    f"<!DOCTYPE x><stream:stream {NS}>",
    f"<?xml version='1.1'?><stream:stream {NS}>",
    f"<?xml version='1.0' encoding='UTF-16'?><stream:stream {NS}>",
    f"<?xml version='1.0' standalone='yes'?><stream:stream {NS}>",
    f"<?pi?><stream:stream {NS}>",
    f"x<stream:stream {NS}>",
    f"<a/><stream:stream {NS}>",
    f" <stream:stream {NS}>",
    f"<stream:stream {NS} id='{'x' * MAX_BYTES}'>",
]


@pytest.mark.parametrize("text", USUAL)
@pytest.mark.parametrize("behind", [b"", b" ", b"<stream:features/>", b">", b"<a b='>'/>"])
def test_usual(text: str, behind: bytes) -> None:
    assert glance(text.encode() + behind) == text.encode()
    agree_on(text.encode())


@pytest.mark.parametrize("text", USUAL)
def test_not_before_it_is_whole(text: str) -> None:
    assert not any(glance(text.encode()[:cut]) for cut in range(len(text)))


@pytest.mark.parametrize("text", UNUSUAL)
def test_unusual(text: str) -> None:
    """For the parsers to judge."""
    assert glance(text.encode()) == b""


def agree_on(header: bytes) -> None:
    """The parsers read the same in it."""
    read = attributes(header)
    assert read is not None
    root = etree.fromstring(header + b"</stream:stream>", stanza.PARSER)
    assert root.tag == stanza.qualified(names.STREAM, "stream")
    assert root.nsmap == {None: read["xmlns"], "stream": read["xmlns:stream"]}
    lang = "{http://www.w3.org/XML/1998/namespace}lang"
    others = {("xml:lang" if name == lang else name): value for name, value in root.attrib.items()}
    assert others == {name: value for name, value in read.items() if not name.startswith("xmlns")}

    framer = _expat.ExpatFramer(max_element_bytes=None, max_depth=9)
    framer.step(header)
    assert framer.events == [StreamStart(0, len(header))]

    assert headers.read_header(header, ClientError) == headers._read_any_header(header, ClientError)
    assert headers.read_header(header, ClientError).context == CONTEXT


spaces = st.text(alphabet=" \t\r\n", max_size=2)
values = st.text(alphabet="abc.@-/:=+_[]()~!#$%*,;?^`{|} <>&'\"\u00e4\t\x7f", max_size=6) | st.just("example.org")
attribute = st.builds(
    lambda before, name, one, two, quote, value: f"{before}{name}{one}={two}{quote}{value}{quote}",
    st.sampled_from([" ", "\n", "  ", ""]),
    st.sampled_from(["to", "from", "id", "version", "xml:lang", "xmlns:x", "other", "xmlns"]),
    spaces,
    spaces,
    st.sampled_from("'\""),
    values,
)
declarations = st.sampled_from(
    ["", "<?xml version='1.0'?>", "<?xml version='1.0' encoding='utf-8' ?>\n", "<?xml encoding='utf-8'?>", "<?x?>"]
)


@given(declarations, st.lists(attribute | st.just(" " + NS), max_size=6), spaces, st.booleans())
@example("", [" " + NS, " to='a'"], "", False)
def test_what_is_taken_for_usual_is_what_the_parsers_read(
    declaration: str, parts: list[str], end: str, with_namespaces: bool
) -> None:
    namespaces = " " + NS if with_namespaces else ""
    data = f"{declaration}<stream:stream{namespaces}{''.join(parts)}{end}><rest/>".encode()
    header = glance(data)
    assert data.startswith(header)
    if header:
        agree_on(header)


@pytest.mark.parametrize("whole", [True, False])
def test_a_limit_holds_for_usual_headers_too(whole: bool) -> None:
    header = USUAL[0].encode()
    for limit, kind in ((len(header), StreamStart), (len(header) - 1, StreamFault)):
        lane = Lane(max_element_bytes=limit, max_depth=9)
        pieces = []
        for part in (header,) if whole else (header[:-1], header[-1:]):
            lane.feed(part)
            while (piece := lane.next()) is not None:
                pieces.append(piece)
        assert [type(piece.event) for piece in pieces if piece.event is not None] == [kind]


def test_expat_goes_on_behind_one() -> None:
    """Where nothing native was built it reads the stream's content as well."""
    header = USUAL[0].encode()
    framer = _expat.ExpatFramer.behind_usual_header(header, max_element_bytes=None, max_depth=9)
    assert (framer.boundary, framer.position) == (len(header), len(header))
    assert framer.scan(b"<message><body>x</body></message> <x:y xmlns:x='urn:x'/><iq") == 56
    assert [(event.start - len(header), event.end - len(header)) for event in framer.events] == [(34, 56)]
    framer.events.clear()
    framer.scan(b"/></stream:stream>")
    assert type(framer.events[0]).__name__ == "StreamEnd"
