"""The relay loop in C: that it does what the one in Python does, that it does it itself, and what it refuses."""

from __future__ import annotations

import logging
import random
import select
import socket
import ssl
from pathlib import Path

import pytest
import relay_twins
from engines import using
from relay_tools import client_context, no_leak, server_context, tcp_pair, write_pem
from relay_twins import STANZAS, Step, Story, Told, difference, random_story, scanner
from websocket_client import PING, Browser, masked, text

from cxfr_proxy.errors import ConfigError
from cxfr_proxy.net.tls_errors import forget_errors
from cxfr_proxy.net.transport import PlainTransport, TlsTransport
from cxfr_proxy.relay import engine
from cxfr_proxy.relay.websocket_transport import WebSocketTransport
from cxfr_proxy.session.commands import Side
from cxfr_proxy.xmpp.framing import framer

pytestmark = pytest.mark.skipif("native" not in engine.ENGINE.names, reason="the relay loop was not compiled here")

CLIENT, NODE = Side
MESSAGE = STANZAS[0]
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.fixture(autouse=True)
def native() -> None:
    if engine.ENGINE.chosen != "native" or framer.ENGINE.chosen != "native":
        pytest.skip("another engine was chosen")


@pytest.fixture
def contexts(tmp_path: Path) -> Contexts:
    certificate = write_pem(tmp_path, "example.org")
    return client_context(certificate), server_context(certificate)


# --- the same as in Python


@pytest.mark.parametrize("first", range(0, 1000, 100))
async def test_random_stories(first: int, contexts: Contexts, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # stories have faults in them
    with no_leak():
        assert relay_twins.compare(range(first, first + 100), contexts) == []


@pytest.mark.parametrize("first", range(0, 300, 50))
async def test_random_stories_over_websocket(first: int, contexts: Contexts, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    with no_leak():
        assert relay_twins.compare(range(first, first + 50), contexts, websocket=True) == []


@pytest.mark.parametrize("first", range(0, 200, 50))
async def test_random_stories_in_which_both_speak_at_once(first: int, contexts: Contexts) -> None:
    """And tell the session all the time how each of them is to be read."""
    with no_leak():
        for seed in range(first, first + 50):
            assert difference(_lively_story(random.Random(seed)), contexts) is None, f"seed {seed}"


def _lively_story(chance: random.Random) -> Story:
    orders = [f"<{each}/>".encode() for each in ("slow", "slower", "quick", "quicker", "echo", "heed")]
    said = {side: b"".join(chance.choice(chance.choice((STANZAS, orders))) for _ in range(40)) for side in Side}
    steps: list[Step] = []
    for _ in range(60):
        side, size = chance.choice(list(Side)), chance.choice((1, 7, 60, 60, 300, 900))
        steps.append(Step("write", side, said[side][:size], together=chance.random() < 0.6))
        said[side] = said[side][size:]
        if chance.random() < 0.3:
            steps.append(Step("read", chance.choice(list(Side)), size=65_536))
    return Story(steps, max_held=chance.choice((None, 50, 3000)), tls=chance.random() < 0.2, buffer=150_000)


def test_stories_are_told_again_alike() -> None:
    assert random_story(random.Random(1)) == random_story(random.Random(1))


@pytest.mark.parametrize("tls", [False, True])
async def test_more_than_a_record(tls: bool, contexts: Contexts) -> None:
    much = MESSAGE * 150
    steps = [Step("write", NODE, much[:40_000]), Step("write", NODE, much[40_000:]), Step("read", CLIENT, size=9)]
    story = Story(steps, tls=tls, buffer=150_000)
    assert difference(story, contexts) is None
    seen, _ = relay_twins.tell(story, "native", contexts)
    assert seen.received[CLIENT] == much


# --- by itself


@pytest.mark.parametrize("tls", [False, True])
async def test_what_is_usual_does_not_reach_the_pump(tls: bool, contexts: Contexts) -> None:
    """Whole stanzas, and such as come in two pieces."""
    told = Told(Story((), tls=tls), contexts)
    asked: list[object] = []
    told.pump.on_ready = asked.append  # type: ignore[method-assign, assignment]
    told.pump.on_scanned = asked.append  # type: ignore[method-assign, assignment]
    for side in Side:
        told.tell(Step("write", side, MESSAGE + b"<presence/><me"))
        told.tell(Step("write", side, b"ssage/>\n<iq"))
    assert asked == []
    assert {lane.held_bytes for lane in told.session.lanes} == {3}
    told.pump.discard(told.live)
    seen = told.finish()
    assert seen.received == dict.fromkeys(Side, MESSAGE + b"<presence/><message/>\n")


@pytest.mark.parametrize("tls", [False, True])
async def test_what_is_usual_over_websocket_runs_no_python(
    tls: bool, contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole messages from the client, several at once; whole elements to it, and such as come in two pieces."""
    told = Told(Story((), tls=tls, websocket=True, buffer=150_000), contexts)
    asked: list[object] = []
    for name in ("on_ready", "on_scanned", "on_unsent"):
        monkeypatch.setattr(told.pump, name, asked.append)
    for name in ("read_now", "write_now", "take_on", "put_on"):
        monkeypatch.setattr(WebSocketTransport, name, lambda *_: pytest.fail("it is not simple"))
    some = [
        MESSAGE,
        b"<presence/>",
        "<iq xmlns='jabber:client' a='ö'><stream:x/></iq>".encode(),
        b"<iq>" + b"b" * 9000 + b"</iq>",
    ]
    for messages in (some[:1], some[1:3], some[3:]):
        told.tell(Step("write", CLIENT, b"".join(map(text, messages))))
    told.tell(Step("write", NODE, MESSAGE + b"<presence/>\n<me"))
    told.tell(Step("write", NODE, b"ssage/>\n" + b"<iq/>" * 200))
    told.tell(Step("write", NODE, some[3] + b" <iq"))
    assert asked == []
    assert told.session.lanes[NODE].held_bytes == 3
    monkeypatch.undo()
    told.pump.discard(told.live)
    seen = told.finish()
    browser = Browser()
    browser.receive(bytes(seen.received[CLIENT]))
    said = [alone.replace(' xmlns="jabber:client"', "") for alone in browser.heard.messages[1:]]
    assert said == [each.decode() for each in (MESSAGE, b"<presence/>", b"<message/>", *[b"<iq/>"] * 200, some[3])]
    assert seen.received[NODE] == b"".join(some)


async def test_a_ping_ends_what_the_switchboard_does_by_itself_for_as_long_as_it_waits() -> None:
    told = Told(Story((), websocket=True))
    websocket = told.live.websocket
    assert websocket is not None
    told.live.ping()
    waited = [websocket.awaits_pong]
    told.tell(Step("write", CLIENT, text(MESSAGE)))
    waited.append(websocket.awaits_pong)
    assert waited == [True, False], "whatever comes shows that the client is there"
    while told.far[CLIENT].send(masked(PING, b"x" * 100)):
        told.pump._turn()
        if websocket.wants_write:
            break
    told.tell(Step("write", NODE, b"<presence/>"))
    browser = Browser()
    browser.receive(bytes(told.finish().received[CLIENT]))
    assert browser.heard.messages[1] == '<presence xmlns="jabber:client"/>'
    assert browser.heard.pings == [b""]
    assert set(browser.heard.pongs) == {b"x" * 100}


async def test_when_bytes_came_last() -> None:
    told = Told(Story(()))
    told.live.heard = 0.0
    assert told.live.last_active == 0.0
    told.tell(Step("write", NODE, MESSAGE))
    first = told.live.last_active
    assert 0.0 < first <= told.pump._now
    told.tell(Step("write", NODE, b"<slow/>"))  # from here on it is the pump that reads
    told.tell(Step("write", NODE, MESSAGE))
    assert told.live.last_active > first
    told.finish()
    assert told.live.last_active > first


async def test_a_reset_ends_the_input() -> None:
    """TCP says it once, and says "end" when it is asked again."""
    client = tcp_pair()
    told = Told(Story(()), client=client)
    client[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # on, no time
    told.tell(Step("go", CLIENT))
    assert told.seen.told == [("eof", CLIENT)]
    told.finish()


class Owing(PlainTransport):
    """Behaves as TLS that was asked to change its keys, and has to answer before it reads on."""

    reads = 0
    _alert = b""
    judge = TlsTransport.judge
    write_own = TlsTransport.write_own

    def read_now(self, most: int, /) -> bytes:  # type: ignore[override]
        self.reads += 1
        if self.reads < 3:
            raise ssl.SSLWantWriteError
        return self.recv(most)


async def test_a_tls_leg_that_must_write_before_it_reads() -> None:
    """Else epoll would speak of the bytes that came for it again and again."""
    told = Told(Story(()))
    told.tell(Step("write", CLIENT, b"<slow/>"))
    while not told.live.legs[CLIENT].unsent:
        told.tell(Step("write", NODE, MESSAGE))
    client = told.live.legs[CLIENT]
    assert isinstance(client.transport, PlainTransport)
    client.transport = owing = Owing(fileno=client.transport.detach())
    owing.setblocking(False)
    for _ in range(3):
        told.tell(Step("write", CLIENT, MESSAGE))
    assert owing.reads == 1
    assert client.interest == select.EPOLLOUT
    assert client.stuck_since is not None
    seen = told.finish()
    assert owing.reads >= 3
    assert seen.received[NODE] == b"<slow/>" + MESSAGE * 3
    assert client.stuck_since is None


# --- faults


async def test_a_fault_of_the_scanner_ends_its_session_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    told = Told(Story(()))
    scanner = told.session.lanes[NODE].scanner
    assert scanner is not None
    scanner.events = None  # type: ignore[assignment]
    told.tell(Step("write", NODE, b"<other/>"))
    assert told.seen.told == [("stop",)]
    assert told.live.closing
    told.finish()


async def test_a_fault_of_nobody_is_raised() -> None:
    told = Told(Story(()))
    board = told.pump._poller._board
    assert board is not None
    assert board.serving == -1
    told.pump._poller._epoll.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        told.pump._turn()
    for sock in told.far:
        sock.close()
    for leg in told.live.legs:
        leg.transport.close()


def test_what_a_switchboard_refuses() -> None:
    from cxfr_proxy.relay._turn import Switchboard

    board = Switchboard(0, (), forget_errors)
    descriptors = ((-1, 1, 0, 1), (1, -1, 0, 1), (2**30, 1, 0, 1))
    for fd, to, side, most in (*descriptors, (1, 1, -1, 1), (1, 1, 2, 1), (1, 1, 0, 0), (1, 1, 0, 65_537)):
        with pytest.raises(ValueError, match="expected two descriptors"):
            board.connect(fd, to, side, scanner(), most, None, None, None, None)
    with pytest.raises(TypeError):
        board.connect(1, 1, 0, object(), 1, None, None, None, None)  # type: ignore[arg-type]
    for unframe, frame in ((object(), None), (None, 1)):
        with pytest.raises(TypeError, match="expected WebSocket transports"):
            board.connect(1, 1, 0, scanner(), 1, None, None, unframe, frame)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Switchboard(0, OSError, forget_errors)  # type: ignore[arg-type]
    for unknown in (-5, 0, 7, 2**40):
        assert board.disconnect(unknown) == board.heard(unknown) == 0.0
    board.connect(1000, 1, 0, scanner(), 1, None, None, None, None)
    board.connect(1000, 2, 1, scanner(), 2, None, None, None, None)
    assert board.disconnect(1000) == 0.0


def test_a_turn_in_a_turn() -> None:
    from cxfr_proxy.relay._turn import Switchboard

    here, there = socket.socketpair()
    with here, there, select.epoll() as epoll:
        board = Switchboard(epoll.fileno(), (), forget_errors)
        epoll.register(here)

        def again(*_: object) -> None:
            board.turn(0.0, 1.0, again, again, again, again)

        with pytest.raises(RuntimeError, match="a turn in a turn"):
            board.turn(0.0, 1.0, again, again, again, again)
        assert board.serving == here.fileno()


def test_a_tls_socket_that_lies() -> None:
    """It moves more than it was asked to, or answers with no number: nothing is read that isn't there."""
    from cxfr_proxy.relay._turn import Switchboard

    here, there = socket.socketpair()

    def unused(*_: object) -> None:
        raise AssertionError

    with here, there, select.epoll() as epoll:
        board = Switchboard(epoll.fileno(), (), forget_errors)
        epoll.register(here, select.EPOLLOUT | select.EPOLLIN)
        there.send(b"x")
        epoll.modify(here, select.EPOLLIN)
        answers: list[object] = [11, -2, 10**30, "ten"]
        for _ in range(len(answers)):
            board.connect(
                here.fileno(), here.fileno(), 0, scanner(), 10, lambda most, buffer: answers.pop(), None, None, None
            )
            with pytest.raises((ValueError, TypeError, OverflowError)):
                board.turn(0.0, 1.0, unused, unused, unused, unused)


# --- which one runs


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    with using(engine.ENGINE, "python"), using(framer.ENGINE, "expat"):
        monkeypatch.setenv("CXFR_ENGINE", "python")
        engine.use_from_environment()
        assert (engine.ENGINE.chosen, framer.ENGINE.chosen) == ("python", "expat")
        with select.epoll() as epoll:
            assert engine.new_switchboard(epoll) is None
        monkeypatch.setenv("CXFR_ENGINE", "native")
        engine.use_from_environment()
        assert (engine.ENGINE.chosen, framer.ENGINE.chosen) == ("native", "native")
        monkeypatch.setenv("CXFR_ENGINE", "steam")
        with pytest.raises(ConfigError, match="CXFR_ENGINE: no relay engine 'steam' here, only native, python"):
            engine.use_from_environment()
