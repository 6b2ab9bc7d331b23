"""Look names up in threads of their own number.

A lookup that no name server answers goes on in its thread for ten seconds or more, whoever has given it up meanwhile.
Checks look each node's name up every other second. So all threads that trio has for everything would soon be theirs,
and an order would wait for them until its state is on disk, or a worker until it is started.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import Any, Final

import trio

MOST_LOOKUPS: Final = 20
"""Threads: as many lookups as a health check of that many nodes needs at once. Others wait for their turn."""


def look_up_apart() -> None:
    """Have names looked up so from now on, in this run of trio."""
    trio.socket.set_custom_hostname_resolver(_Names())


class _Names(trio.abc.HostnameResolver):
    """The standard library's, whose types are ``Any`` here: trio says them in ten lines."""

    def __init__(self) -> None:
        self._threads = trio.CapacityLimiter(MOST_LOOKUPS)

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        look_up = partial(socket.getaddrinfo, host, port, family, type, proto, flags)
        return await trio.to_thread.run_sync(look_up, limiter=self._threads, abandon_on_cancel=True)

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        look_up = partial(socket.getnameinfo, sockaddr, flags)
        return await trio.to_thread.run_sync(look_up, limiter=self._threads, abandon_on_cancel=True)
