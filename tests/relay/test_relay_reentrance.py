"""A listener may ask something of the session that reports to it: that waits until the session is between events."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
from engines import using
from relay_twins import Deaf, Step, Story, Told

from cxfr_proxy.relay import engine
from cxfr_proxy.relay.live_session import LiveSession
from cxfr_proxy.session.commands import Event, Forged, Side
from cxfr_proxy.session.ladder import Order, Trigger

ORDER = Order(Trigger.DRAIN)
Reaction = Callable[[LiveSession], None]


@pytest.fixture(params=engine.ENGINE.names, autouse=True)
def which(request: pytest.FixtureRequest) -> Iterator[None]:
    with using(engine.ENGINE, request.param):
        yield


class Reacting(Deaf):
    """Does something when it hears of a forged transfer, or of anything."""

    def __init__(self, react: Reaction, *, always: bool = False) -> None:
        self.heard: list[str] = []
        self.over = 0
        self._react = react
        self._always = always

    def session_event(self, live: LiveSession, event: Event) -> None:
        self.heard.append(type(event).__name__)
        if self._always or isinstance(event, Forged):
            self._react(live)

    def session_over(self, live: LiveSession) -> None:
        self.over += 1


def tell(react: Reaction, *, data: bytes = b"<report/>", always: bool = False) -> tuple[Told, Reacting]:
    """The client sends this; its report comes before an answer that the client gets."""
    told, listener = Told(Story(())), Reacting(react, always=always)
    told.live.listener = listener
    told.tell(Step("write", Side.CLIENT, data))
    return told, listener


def twice(live: LiveSession) -> None:
    live.transfer(ORDER)
    live.transfer(Order(Trigger.REBALANCE))


async def test_what_was_decided_first_is_done_first() -> None:
    told, listener = tell(lambda live: live.transfer(ORDER))
    assert listener.heard == ["Forged", "Awakened"]
    assert told.finish().received[Side.CLIENT] == b"<reported/><move/>"


async def test_several_in_their_order() -> None:
    told, _ = tell(twice)
    asked = [entry for entry in told.seen.told if entry[0] == "transfer"]
    assert asked == [("transfer", Trigger.DRAIN), ("transfer", Trigger.REBALANCE)]
    assert told.finish().received[Side.CLIENT] == b"<reported/><move/><move/>"


async def test_what_is_asked_of_it_while_it_does_what_was_put_off() -> None:
    left = [ORDER] * 500

    def react(live: LiveSession) -> None:
        if left:
            live.transfer(left.pop())

    told, listener = tell(react, always=True)
    assert listener.heard == ["Forged", *["Awakened"] * 500], "as often as it is asked, and no call within the other"
    told.finish()


async def test_a_session_that_is_stopped_by_its_listener_says_its_words_first() -> None:
    told, listener = tell(lambda live: live.stop())
    assert listener.over == 1
    assert told.finish().received[Side.CLIENT] == b"<reported/>"


async def test_a_session_that_has_ended_is_asked_nothing_more() -> None:
    """It ends by the very element that is reported."""
    told, listener = tell(twice, data=b"<report/><cut/>")
    assert listener.over == 1
    assert [entry for entry in told.seen.told if entry[0] == "transfer"] == []
    told.finish()


async def test_a_fault_is_no_reason_to_ask_a_session_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    told, listener = tell(twice, data=b"<report/><fault/>")
    assert listener.over == 1
    assert [entry for entry in told.seen.told if entry[0] == "transfer"] == []
    told.finish()


async def test_a_listener_that_asks_from_outside_finds_it_at_once() -> None:
    told, _ = tell(lambda live: None)
    told.live.transfer(ORDER)
    assert not told.live.driven
    assert told.finish().received[Side.CLIENT] == b"<reported/><move/>"
