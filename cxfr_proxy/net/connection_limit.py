"""Limit connections to what fits: the kernel gives a process so many descriptors, and a session takes two.

Descriptors in use are counted by asking for each, not in ``/proc``, which is not mounted everywhere (a chroot, a jail).

Beyond the limit no connection is accepted: connections wait in the kernel's queue, and the kernel refuses them once
that is full. That is better than accepting connections that cannot be served. The log says when this begins and when it
is over: not before :data:`_ENOUGH` of the connections fit again, or a full proxy would write a line for each client
that leaves.
"""

from __future__ import annotations

import fcntl
import logging
import resource
from contextlib import suppress
from typing import Final

import trio

from cxfr_proxy.events import emit

DESCRIPTORS_A_SESSION: Final = 2
"""Descriptors of a session: the client's socket and the node's."""
RESERVE: Final = 128
"""Descriptors for everything else that may be open at a time: probes, control connections, files that are read
again."""
_ENOUGH: Final = 0.05
_GAP: Final = 1024
"""Unused descriptors in a row behind which none is expected: the kernel gives the lowest number that is free. Programs
are started with a soft limit of this number, so nothing that they inherit lies higher."""

_log = logging.getLogger(__name__)


def raise_descriptor_limit() -> None:
    """Raise the limit to what the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # a sandbox may forbid it: then the soft limit is what there is
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def sessions_that_fit(limit: int | None = None) -> int:
    """Return how many connections fit into this process as it is now. ``limit`` is of descriptors, ``None``: the
    process's own."""
    if limit is None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    free = limit - open_descriptors() - RESERVE
    return max(1, free // DESCRIPTORS_A_SESSION)


def open_descriptors() -> int:
    """Return how many descriptors this process has open. Takes a millisecond, and more with more of them."""
    count = fd = last = 0
    while fd <= last + _GAP:
        if _is_open(fd):
            count, last = count + 1, fd
        fd += 1
    return count


def _is_open(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return False
    return True


class ConnectionLimit:
    """``connections`` is the limit."""

    def __init__(self, connections: int) -> None:
        self.connections = connections
        self.taken = 0
        self.waited = 0
        """How often a connection could not be accepted at once."""
        self._left = trio.Event()
        self._logged = False

    @property
    def free(self) -> int:
        return self.connections - self.taken

    async def wait(self) -> None:
        """Wait until one more fits."""
        if self.taken >= self.connections:
            self.waited += 1
            self._log_full()
        while self.taken >= self.connections:
            await self._left.wait()

    def enter(self) -> None:
        self.taken += 1

    def leave(self) -> None:
        self.taken -= 1
        # Wakes all that wait, a task for each listening socket; each looks again whether it fits.
        self._left.set()
        self._left = trio.Event()
        if self._logged and self.taken <= self.connections * (1 - _ENOUGH):
            self._logged = False
            emit(_log, "room-again", connections=self.taken)

    def _log_full(self) -> None:
        if not self._logged:
            self._logged = True
            emit(
                _log,
                "full",
                level=logging.WARNING,
                connections=self.taken,
                reason="no descriptors for more (RLIMIT_NOFILE); new clients wait until others leave",
            )
