"""The scripts' own eyes: a test that could not fail would prove nothing."""

from __future__ import annotations

import pytest
from session_script import END, HELLO, NEWS, NODE_HEADER, Script

from cxfr_proxy.session.commands import EndOutput, Send, Side


def test_a_failing_script_shows_its_transcript() -> None:
    with pytest.raises(AssertionError, match=r"(?s)client gets.*expected.*BOUND +client sends b.<message"):
        Script().bind().client(HELLO).client_gets("something")


@pytest.mark.parametrize("broken", [b"<message>", b"<mess", b"text", b"</iq>", NODE_HEADER.encode()])
def test_half_an_element_is_seen(broken: bytes) -> None:
    script = Script().bind()
    with pytest.raises(AssertionError, match=r"can't read|text between"):
        script._carry_out(Send(Side.CLIENT, broken))


def test_bytes_behind_the_end_are_seen() -> None:
    script = Script().bind()
    script._carry_out(Send(Side.CLIENT, END.encode()))
    with pytest.raises(AssertionError, match="can't read"):
        script._carry_out(Send(Side.CLIENT, NEWS.encode()))


def test_bytes_behind_the_end_of_output_are_seen() -> None:
    script = Script().bind()
    script._carry_out(EndOutput(Side.NODE, silent=True))
    with pytest.raises(AssertionError, match="behind the end"):
        script._carry_out(Send(Side.NODE, HELLO.encode()))


def test_an_end_without_the_stream_s_end_is_seen() -> None:
    script = Script().bind()
    with pytest.raises(AssertionError, match="not its stream"):
        script._carry_out(EndOutput(Side.CLIENT, silent=True))


@pytest.mark.parametrize("side", list(Side))
def test_a_tls_that_is_closed_where_the_stream_was_not_is_seen(side: Side) -> None:
    script = Script().bind()
    with pytest.raises(AssertionError, match="TLS is closed where the stream was ended"):
        script._carry_out(EndOutput(side))
