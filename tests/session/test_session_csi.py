"""A client that says that nobody looks at it (XEP-0352): the session knows, and the node is told as ever."""

from __future__ import annotations

import pytest
from session_script import ACTIVE, HELLO, INACTIVE, Script

from cxfr_proxy.session.commands import Awakened
from cxfr_proxy.session.tables import State


def sleeps(script: Script) -> bool:
    return script.session.inactive


def test_to_sleep_and_awake_again() -> None:
    script = Script().bind()
    assert not sleeps(script)
    script.client(HELLO, INACTIVE).node_gets(HELLO, INACTIVE).reports()
    assert sleeps(script)
    script.client(INACTIVE).reports()
    script.client(ACTIVE, HELLO).node_gets(INACTIVE, ACTIVE, HELLO).reports(Awakened())
    assert not sleeps(script)
    script.client(ACTIVE).reports()
    script.client_gets().is_in(State.BOUND)


def test_while_it_is_asked_to_move() -> None:
    script = Script().bind().order().forget()
    script.client(INACTIVE).node_gets(INACTIVE)
    assert sleeps(script)


@pytest.mark.parametrize("cut", range(1, len(INACTIVE)))
def test_wherever_it_is_cut(cut: int) -> None:
    script = Script().bind().client(INACTIVE[:cut])
    assert not sleeps(script)
    script.client(INACTIVE[cut:]).node_gets(INACTIVE)
    assert sleeps(script)
