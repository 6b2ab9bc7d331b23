"""A transport of the demo that breaks with an ``OSError``, as TLS over memory may, ends its one connection."""

from __future__ import annotations

import errno
import random
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from cxfr_proxy.demo.certificate import make_certificate
from cxfr_proxy.demo.client import DemoClient
from cxfr_proxy.demo.habits import ClientKind, ClientLogin, Security
from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.demo.wire import Connection, EndOfFile

BROKEN = (BrokenPipeError(errno.EPIPE, "Broken pipe"), BlockingIOError(errno.EAGAIN, "Try again"))


class BrokenTransport(trio.abc.Stream):
    def __init__(self, error: OSError) -> None:
        self.error = error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        raise self.error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        raise self.error

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        raise self.error


@pytest.mark.parametrize("error", BROKEN)
async def test_a_connection_ends(error: OSError) -> None:
    connection = Connection(BrokenTransport(error))
    assert await connection.read() == EndOfFile()
    connection.write(b"<presence/>")
    await connection.write_forever()
    assert connection.broken
    await connection.flush()
    await connection.close_politely()


@pytest.mark.parametrize("error", BROKEN)
async def test_a_handshake_ends_and_the_node_takes_the_next(
    error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path, "localhost")
    node = DemoNode("node1", public_tls=certificate.server_context())
    shake_hands = trio.SSLStream.do_handshake
    tried: list[object] = []

    async def breaks_first(stream: trio.SSLStream[trio.abc.Stream]) -> None:
        tried.append(stream)
        if len(tried) == 1:
            await trio.lowlevel.checkpoint()
            raise error
        await shake_hands(stream)

    async with trio.open_nursery() as nursery:
        await nursery.start(node.serve)
        assert node.public_address is not None
        monkeypatch.setattr(trio.SSLStream, "do_handshake", breaks_first)
        async with await trio.open_tcp_stream(*node.public_address) as raw:
            await raw.send_all(b"\x16")
            with suppress(trio.BrokenResourceError):  # what it has not read becomes a reset
                assert await raw.receive_some() == b""
        client = DemoClient(
            "romeo@localhost",
            next(iter(ClientKind)),
            node.public_address,
            rng=random.Random(1),
            login=ClientLogin(security=Security.DIRECT_TLS, tls=certificate.client_context()),
        )
        await nursery.start(client.run)
        assert client.logins == 1
        nursery.cancel_scope.cancel()
