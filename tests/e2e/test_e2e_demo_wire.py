"""The demo's parser and its books, by which other tests judge."""

from __future__ import annotations

import pytest
from demo_world import HEADER

from cxfr_proxy.demo.account import ClientAccount, MessageCounts, Numbered, SessionRecord, judge
from cxfr_proxy.demo.wire import (
    HostPort,
    Malformed,
    StreamEvent,
    StreamOpened,
    StreamParser,
)
from cxfr_proxy.xmpp.stanza import Element, serialize

# ---- the parser ----


def test_parser_gives_the_same_events_for_every_cut() -> None:
    stream = HEADER + b" <message to='a'><body>&lt;x>\xc3\xa9</body></message> <iq type='get'/>\n</stream:stream>"

    def shown(items: list[StreamEvent]) -> list[str]:
        return [serialize(item).decode() if isinstance(item, Element) else repr(item) for item in items]

    whole = shown(StreamParser().feed(stream))
    assert len(whole) == 4
    for cut in range(1, len(stream)):
        parser = StreamParser()
        assert shown([*parser.feed(stream[:cut]), *parser.feed(stream[cut:])]) == whole
    parser = StreamParser()
    assert shown([item for byte in stream for item in parser.feed(bytes([byte]))]) == whole


@pytest.mark.parametrize(
    "bad",
    [
        HEADER + b"<!-- hidden --><iq/>",
        HEADER + b"<?php ?>",
        b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + HEADER.partition(b"?>")[2],
        HEADER + b"<a></b>",
        HEADER + b"</stream:stream>junk",
        b"<html>",
    ],
)
def test_parser_reports_what_no_stream_may_hold(bad: bytes) -> None:
    assert [item for item in StreamParser().feed(bad) if isinstance(item, Malformed)]


def test_parser_never_reports_an_element_with_an_undeclared_entity() -> None:
    parser = StreamParser()
    seen = [
        item
        for piece in (HEADER, b"<a>&undefined;</a>", b"<b/>", b"<c/><d/>")
        for item in parser.feed(piece)
        if not isinstance(item, StreamOpened)
    ]
    assert len(seen) == 1
    assert isinstance(seen[0], Malformed)


def test_parser_forgets_old_elements() -> None:
    parser = StreamParser()
    parser.feed(HEADER)
    for _ in range(50):
        (element,) = parser.feed(b"<message/> ")
        assert isinstance(element, Element)
        parent = element.getparent()
        assert parent is not None
        assert len(parent) == 1


def test_an_element_that_is_read_one_by_one_is_written_as_it_was() -> None:
    """A web client writes what it reads here: with a prefix it would be a stanza like nobody's."""
    stanzas = [f"<message id='{number}'><body>x</body></message>" for number in range(3)]
    _, *written = [
        serialize(item).decode() if isinstance(item, Element) else ""
        for item in StreamParser().read(HEADER + "".join(stanzas).encode())
    ]
    assert [each.partition(" ")[0] for each in written] == ["<message"] * 3


def test_parser_gives_what_stood_before_the_fault() -> None:
    header, message, fault = StreamParser().feed(HEADER + b"<message/><a></b>")
    assert isinstance(header, StreamOpened)
    assert isinstance(message, Element)
    assert isinstance(fault, Malformed)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("a.example", ("a.example", 5222)),
        ("a.example:1", ("a.example", 1)),
        ("[2001:db8::1]:2", ("2001:db8::1", 2)),
        ("[::1]", ("::1", 5222)),
    ],
)
def test_address(text: str, address: tuple[str, int]) -> None:
    assert HostPort.parse(text) == address
    assert HostPort.parse(str(HostPort.parse(text))) == address


# ---- the books ----


def test_account_sends_again_what_was_not_answered() -> None:
    account = ClientAccount("a@b")
    first, second, third = (account.number() for _ in range(3))
    account.saw(first)
    account.bounced(second.number, wait=True)
    account.stream_lost()
    assert account.again() == [second, third]
    assert (account.resent, account.in_flight, account.due_again) == (2, {2, 3}, set())


def test_judge() -> None:
    account = ClientAccount("a@b")
    for _ in range(5):
        account.number()
    account.saw(Numbered("a@b", 1))
    account.saw(Numbered("a@b", 2))
    account.saw(Numbered("a@b", 2))
    account.saw(Numbered("a@b", 3))
    account.bounced(4, wait=False)
    account.saw(Numbered("n:1", 1))
    record = SessionRecord("a@b/r", "n:1", ["n"], [Numbered("a@b", 3)], {1, 2})
    other = SessionRecord("a@b/r", "m:1", ["m"], [Numbered("a@b", 3)])
    stranger = SessionRecord("x@b/r", "n:2", ["n"], [Numbered("a@b", 1)] * 2, {1})
    # up: 5 is lost, 2 was echoed twice, 3 taken in by two nodes, 4 refused; down: 2 is lost
    assert judge(account, [record, other, stranger]) == MessageCounts(
        sent=7, received=4, resent=0, refused=1, lost=2, twice=2
    )
