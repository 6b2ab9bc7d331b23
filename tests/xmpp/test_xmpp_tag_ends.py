"""Which ``>`` ends a tag, in whatever pieces the bytes come."""

from __future__ import annotations

import pytest

from cxfr_proxy.xmpp.framing.tag_ends import TagEnds

CASES = [
    ["<?xml version='1.0'?>", "<stream:stream a='>' b=\">'>\">", "text > ' \" <iq>", "it's</iq>", "<a b='x'/>"],
    ["<?x > ' ?>", "<a>"],
    ["<a>", "<![CDATA[ > <b c=' ]> ]]]>", "'\"</a>", "<b/>"],
    ["<a b='<' c=\"]]>\">", "</a >"],
    ["<!-- > > ' <a> -->"],
    ["<!DOCTYPE a [<!ENTITY b '>'>]>"],
]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("parts", CASES, ids=lambda parts: parts[0])
def test_ends(parts: list[str], size: int) -> None:
    whole = "".join(parts).encode()
    ends, found = TagEnds(), []
    for begin in range(0, len(whole), size):
        piece, at = whole[begin : begin + size], 0
        while at < len(piece):
            at = ends.next(piece, at)
            found.append(begin + at)
    wanted = [sum(map(len, parts[: number + 1])) for number in range(len(parts))]
    pieces = [min(begin + size, len(whole)) for begin in range(0, len(whole), size)]
    assert sorted(set(found) - set(pieces)) == sorted(set(wanted) - set(pieces))
