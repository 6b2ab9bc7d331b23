"""Tell the service manager how the process is: ready, reloading, stopping, alive (sd_notify(3)).

The manager says by ``NOTIFY_SOCKET`` where it listens, and by ``WATCHDOG_USEC`` how often it wants to hear that the
process lives. Without them every method does nothing, so nobody has to ask whether there is a manager.

A message is a datagram. It is sent without waiting, since a manager that does not read holds up nobody; but for the one
that nothing makes good, if it is lost.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from enum import Enum, auto
from typing import Final

from cxfr_proxy.events import emit

_SOCKET, _WATCHDOG, _WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
_MICROSECONDS: Final = 1_000_000

_log = logging.getLogger(__name__)


class _ServicePhase(Enum):
    WAITING = auto()
    """Another process is the service still, so nothing is said."""
    STARTING = auto()
    READY = auto()
    STOPPING = auto()


class ServiceManager:
    """The manager that listens at ``address``, a path or, after ``@``, an abstract name; ``None``: there is none.

    ``watchdog_seconds``: it ends a process that is silent for so long; ``None``: it does not.
    """

    def __init__(self, address: str | None = None, watchdog_seconds: float | None = None) -> None:
        self.address = address
        self.watchdog_seconds = watchdog_seconds
        self._phase = _ServicePhase.STARTING
        self._status = ""
        self._heard = True
        """Whether the latest message has arrived: a manager that is gone is logged once."""

    @classmethod
    def of_environment(cls, environ: MutableMapping[str, str], pid: int) -> ServiceManager:
        """Return the manager that the environment names, and remove the variables: programs that this process starts
        have nothing to tell it."""
        given = {name: environ.pop(name, "") for name in (_SOCKET, _WATCHDOG, _WATCHDOG_PID)}
        microseconds = given[_WATCHDOG]
        wanted = given[_WATCHDOG_PID] in ("", str(pid)) and microseconds.isascii() and microseconds.isdecimal()
        seconds = int(microseconds) / _MICROSECONDS if wanted else 0.0
        return cls(given[_SOCKET] or None, seconds or None)

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a process that is to take this one's place."""
        given = {_SOCKET: self.address} if self.address is not None else {}
        if self.watchdog_seconds is not None:
            given[_WATCHDOG] = str(round(self.watchdog_seconds * _MICROSECONDS))
        return given

    def wait_until_ready(self) -> None:
        """Say nothing before :meth:`ready`: the manager believes the process whose place this one takes."""
        self._phase = _ServicePhase.WAITING

    def ready(self) -> None:
        """Say that the service serves."""
        self._phase = _ServicePhase.READY
        self._say("READY=1")

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Say that settings are read again, and at the end of the block that this is over."""
        # The manager compares it with the time of its signal: a reload that began before is not the one it asked for.
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._say_if_ready("RELOADING=1", f"MONOTONIC_USEC={microseconds}")
        try:
            yield
        finally:
            self._say_if_ready("READY=1")

    def stopping(self, within: float) -> None:
        """Say that the service stops, for which it takes at most so many seconds."""
        self._phase = _ServicePhase.STOPPING
        self._say("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round(within * _MICROSECONDS)}")

    def status(self, text: str) -> None:
        """Say in a line how the service is. Nothing is sent if that is known."""
        if text != self._status and self._phase is not _ServicePhase.WAITING:
            self._status = text
            self._say(f"STATUS={' '.join(text.split())}")

    def alive(self) -> None:
        """Say that the process lives."""
        if self.watchdog_seconds is not None:
            self._say("WATCHDOG=1")

    def replaced_by(self, pid: int) -> bool:
        """Say that another process is the service from now on. Return false where that has to be said again, since the
        manager takes nothing at the moment: it would end the new process with this one."""
        return self._say(f"MAINPID={pid}")

    def _say_if_ready(self, *lines: str) -> None:
        if self._phase is _ServicePhase.READY:
            self._say(*lines)

    def _say(self, *lines: str) -> bool:
        """Return whether saying it again is of no use: it was sent, or nobody is there."""
        if self.address is None or self._phase is _ServicePhase.WAITING:
            return True
        name = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto("\n".join(lines).encode(), name)
            self._heard = True
            return True
        except OSError as exc:
            reason = os.strerror(exc.errno) if exc.errno else str(exc)
            if self._heard:
                emit(_log, "service-manager-not-told", level=logging.WARNING, message=lines[0], reason=reason)
            self._heard = False
            return exc.errno not in (errno.EAGAIN, errno.ENOBUFS)
