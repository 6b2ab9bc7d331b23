"""Who sends without end: what is read of it at once, and at all. Nothing here depends on how fast anybody is."""

from __future__ import annotations

import contextlib
import socket
from typing import cast

import trio
from relay_tools import tcp_pair, until
from trio.testing import MockClock

from cxfr_proxy.relay.endpoint import Endpoint
from cxfr_proxy.relay.serve import ClientServer, _Connection


def flood(there: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        while True:
            there.send(data)


async def test_who_is_refused_is_not_listened_to_without_end(mock_clock: MockClock) -> None:
    """The clock stands still, so it is not the time that ends it."""
    here, there = tcp_pair()
    endpoint = Endpoint.from_socket(here)
    connection = _Connection(cast("ClientServer", None), endpoint, None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection._part, b"</stream:stream>")

        def is_over() -> bool:
            flood(there, bytes(65_536))
            return not nursery.child_tasks

        await until(is_over)
    endpoint.close()
    there.close()
