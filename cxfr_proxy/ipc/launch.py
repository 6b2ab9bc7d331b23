"""The interfaces by which the supervisor starts workers and watches them, wherever they run."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Protocol

from cxfr_proxy.ipc.channel import Channel


class Launched(Protocol):
    """A worker's process."""

    @property
    def pid(self) -> int: ...

    @property
    def channel(self) -> Channel:
        """The supervisor's end of its channel."""

    @property
    def ends_unheard(self) -> bool:
        """Whether its sessions can end without a word from it, as those of a killed process do."""

    async def wait(self) -> int:
        """Wait until it has ended; return its exit code."""

    def kill(self) -> None:
        """Kill it at once; nothing happens if it has ended."""


class Launcher(Protocol):
    """Starts workers."""

    async def launch(self, listening: Sequence[socket.socket]) -> Launched:
        """Start a worker with the listening sockets that it inherits. Raises :class:`OSError`."""
