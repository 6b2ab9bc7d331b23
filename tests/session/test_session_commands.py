"""Commands on their way to the relay: what goes to one side in a row is one write."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from session_script import FEATURES, NODE_HEADER, Script

from cxfr_proxy.session.commands import Drop, Send, SessionCommand, Side, joined

A, B, C = (Send(Side.CLIENT, data) for data in (b"a", b"b", b"c"))
UP = Send(Side.NODE, b"u")
DROP = Drop(Side.NODE)


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        ([], []),
        ([A], [A]),
        ([A, B], [Send(Side.CLIENT, b"ab")]),
        ([A, UP], [A, UP]),
        ([A, DROP], [A, DROP]),
        ([DROP, A], [DROP, A]),
        ([A, B, C], [Send(Side.CLIENT, b"abc")]),
        ([A, UP, B], [A, UP, B]),
        ([A, B, DROP, C, UP], [Send(Side.CLIENT, b"ab"), DROP, C, UP]),
    ],
)
def test_what_goes_to_one_side_in_a_row_is_joined(
    commands: Sequence[SessionCommand], expected: Sequence[SessionCommand]
) -> None:
    assert list(joined(commands)) == expected


def test_a_nodes_header_and_its_features_are_one_write() -> None:
    it = Script()
    sent = joined(it.session.receive(Side.NODE, (NODE_HEADER + FEATURES).encode(), it.now))
    assert list(sent) == [Send(Side.CLIENT, (NODE_HEADER + FEATURES).encode())]


def test_a_header_does_not_wait_for_features_that_come_late() -> None:
    it = Script()
    for part in (NODE_HEADER, FEATURES):
        sent = joined(it.session.receive(Side.NODE, part.encode(), it.now))
        assert list(sent) == [Send(Side.CLIENT, part.encode())]
