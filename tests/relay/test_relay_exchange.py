"""Another connection in the place of a session's node, while the client's goes on: in both engines, plain and TLS."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import using
from relay_tools import client_context, no_leak, server_context, write_pem
from relay_twins import Story, Told, secured

from cxfr_proxy.net.tls_errors import forget_errors
from cxfr_proxy.net.transport import PlainTransport, Transport
from cxfr_proxy.relay import engine
from cxfr_proxy.session.commands import EndOutput, ExchangeNode, Forgo, Send, SessionCommand, Side
from cxfr_proxy.xmpp.framing import framer

STANZA = b"<message><body>hello</body></message>"
NEWS = b"<presence/>"
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.fixture(params=engine.ENGINE.names, autouse=True)
def which(request: pytest.FixtureRequest) -> Iterator[None]:
    with using(engine.ENGINE, request.param):
        yield


@pytest.fixture
def contexts(tmp_path: Path) -> Contexts:
    certificate = write_pem(tmp_path, "example.org")
    return client_context(certificate), server_context(certificate)


class World:
    """A session whose client has said something, with its node and another connection, and the far ends of all."""

    def __init__(self, contexts: Contexts, *, tls: bool, buffer: int = 4096) -> None:
        self.told = Told(Story((), buffer=buffer), contexts)
        self.client, self.old = self.told.far
        pair = socket.socketpair()
        for sock in pair:
            sock.setblocking(False)
        self.new, near = pair[0], pair[1]
        self.transport: Transport
        if tls:
            self.new, self.transport = secured((self.new, near), *contexts)
        else:
            self.transport = PlainTransport.adopt(near)
        self.write(self.client, STANZA)
        assert self.read(self.old) == STANZA

    def write(self, far: socket.socket, data: bytes) -> None:
        assert far.send(data) == len(data)
        for _ in range(2):
            self.told.pump._turn()

    def read(self, far: socket.socket) -> bytes | None:
        """All there is; ``None``: the end."""
        data = b""
        try:
            while more := far.recv(65_536):
                data += more
        except (BlockingIOError, ssl.SSLWantReadError):
            return data
        except ssl.SSLZeroReturnError:
            pass
        return data or None

    def offer(self, *commands: SessionCommand) -> None:
        """The session is told of the other connection and takes it; these commands come first."""

        def decide(now: float) -> list[SessionCommand]:
            self.told.session.restart(Side.NODE)
            return [*commands, ExchangeNode(), Send(Side.NODE, b"<resume/>")]

        self.told.live.offer_node(self.transport, decide)

    def finish(self) -> None:
        self.told.finish()
        self.new.close()


@pytest.mark.parametrize("tls", [False, True])
async def test_the_session_goes_on_with_the_other_node(contexts: Contexts, tls: bool) -> None:
    with no_leak():
        it = World(contexts, tls=tls)
        it.offer()
        assert it.read(it.old) is None, "its connection is closed"
        assert it.read(it.new) == b"<resume/>", "what is sent next is the new one's"
        for _ in range(3):
            it.write(it.client, STANZA)
            assert it.read(it.new) == STANZA
            it.write(it.new, NEWS)
            assert it.read(it.client) == NEWS
        assert it.told.seen.told == [], "and the session has heard of no end"
        it.finish()


async def test_what_passes_by_itself_does_so_again(contexts: Contexts) -> None:
    if engine.ENGINE.chosen != "native" or framer.ENGINE.chosen != "native":
        pytest.skip("there is no switchboard, or none that can scan")
    it = World(contexts, tls=False)
    it.offer()
    asked: list[object] = []
    it.told.pump.on_ready = asked.append  # type: ignore[method-assign, assignment]
    before = it.told.live.last_active
    it.write(it.client, STANZA)
    it.write(it.new, NEWS)
    assert asked == []
    assert (it.read(it.new), it.read(it.client)) == (b"<resume/>" + STANZA, NEWS)
    assert it.told.live.last_active > before, "and when bytes came is known of the new one"
    it.finish()


async def test_what_the_old_node_has_not_taken_is_counted(contexts: Contexts, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with no_leak():
        it = World(contexts, tls=False)
        while not it.told.live.legs[Side.NODE].unsent:
            it.write(it.client, STANZA)
        unsent = len(it.told.live.legs[Side.NODE].unsent)
        it.offer()
        dropped = [record for record in caplog.records if record.msg == "bytes-dropped"]
        assert [vars(record)["cxfr_proxy_fields"]["bytes"] for record in dropped] == [unsent]
        it.write(it.client, NEWS)
        assert it.read(it.new) == b"<resume/>" + NEWS, "the client is read again, and nothing of the old one's is left"
        it.finish()


@pytest.mark.parametrize("silent", [False, True])
async def test_an_old_node_whose_output_was_ended_hears_so(contexts: Contexts, silent: bool) -> None:
    """As by any other end: TLS is closed first, or not."""
    with no_leak():
        it = World(contexts, tls=True)
        it.offer()
        it.read(it.new)
        encrypted, it.transport = it.new, PlainTransport.adopt(_pair_with(it))
        assert isinstance(encrypted, ssl.SSLSocket)
        encrypted.suppress_ragged_eofs = False  # type: ignore[attr-defined]
        it.offer(EndOutput(Side.NODE, silent))
        if silent:
            # OpenSSL wants to say that it misses an end, and Python from 3.13.1 on raises what came of that.
            with pytest.raises((ssl.SSLEOFError, BrokenPipeError)):
                encrypted.read(1)
            forget_errors()
        else:
            assert it.read(encrypted) is None
        encrypted.close()
        it.finish()


def _pair_with(it: World) -> socket.socket:
    it.new, near = socket.socketpair()
    it.new.setblocking(False)
    return near


@pytest.mark.parametrize("when", ["offered", "forgone", "over"])
async def test_an_offered_connection_goes_with_its_session(contexts: Contexts, when: str) -> None:
    with no_leak():
        it = World(contexts, tls=False)
        asked: list[float] = []

        def decide(now: float) -> list[SessionCommand]:
            asked.append(now)
            return [Forgo()] if when == "forgone" else []

        if when == "over":
            it.told.pump.discard(it.told.live)
        it.told.live.offer_node(it.transport, decide)
        if when != "forgone":
            it.told.pump.discard(it.told.live)
        assert len(asked) == (when != "over")
        assert it.read(it.new) is None
        it.finish()


async def test_nothing_takes_the_place_of_the_node_that_was_not_offered(contexts: Contexts) -> None:
    it = World(contexts, tls=False)
    with pytest.raises(RuntimeError, match="no other connection"):
        it.told.pump.exchange_node(it.told.live)
    it.transport.close()
    it.finish()
