"""A service manager that keeps what it is told (sd_notify(3))."""

from __future__ import annotations

import socket
from pathlib import Path
from types import TracebackType

import trio

from cxfr_proxy.service_manager import ServiceManager


class FakeManager:
    """Listens at a path, or at an abstract name, which begins with ``@``."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sock.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    @classmethod
    def in_directory(cls, directory: Path) -> FakeManager:
        return cls(str(directory / "notify"))

    def seen_as(self, watchdog_seconds: float | None = None) -> ServiceManager:
        """The manager as the program has it."""
        return ServiceManager(self.address, watchdog_seconds)

    def fill(self) -> int:
        """Have it be so busy that it takes no more messages; return how many wait."""
        waiting = 0
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            while True:
                try:
                    sock.sendto(b"busy", self.address)
                    waiting += 1
                except BlockingIOError:
                    return waiting

    def heard(self) -> list[str]:
        """Return the messages that came since, lines joined by a comma."""
        messages = []
        while True:
            try:
                messages.append(self._sock.recv(10_000).decode().replace("\n", ","))
            except BlockingIOError:
                return messages

    async def hears(self, beginning: str) -> str:
        """Wait for a message that begins so; others are passed over."""
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            message = self._sock.recv(10_000).decode().replace("\n", ",")
            if message.startswith(beginning):
                return message

    def __enter__(self) -> FakeManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._sock.close()
