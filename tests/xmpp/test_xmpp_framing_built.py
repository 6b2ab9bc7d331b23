"""Framing against what was built: random elements, known boundaries, random cuts; and against lxml and expat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from xml.parsers import expat

import pytest
from engines import using
from framing_tools import END, HEADER, Outcome, behind, new_reader, scan
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from cxfr_proxy.xmpp.framing import framer
from cxfr_proxy.xmpp.framing.framer import (
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
