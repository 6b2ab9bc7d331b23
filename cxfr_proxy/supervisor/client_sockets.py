"""The sockets on which clients connect: a set for each worker slot, made here and kept open here.

So connections wait for a worker that is being replaced, and a slot without a worker can stop listening.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from cxfr_proxy.admin.control.socket_file import SocketUse, socket_file
from cxfr_proxy.config.values import ListenAddress, ListenPath
from cxfr_proxy.net.listen import BACKLOG, bind_shared, listen_again, listen_no_more
from cxfr_proxy.supervisor.workers import WorkerSlot


class ClientSockets:
    """The listening sockets of all slots; none before :meth:`bind`."""

    def __init__(self) -> None:
        self._by_slot: list[list[socket.socket]] = []
        self.addresses: list[tuple[str, int]] = []
        """The addresses on which they listen."""
        self.paths: list[str] = []
        """Those of unix sockets, which all slots have together."""
        self._files = ExitStack()

    def bind(self, listen: Sequence[ListenAddress], listen_unix: Sequence[ListenPath], slots: int) -> None:
        """Bind them for so many slots. Raises :class:`ConfigError`; the caller calls :meth:`close` all the same."""
        self._by_slot = bind_shared(listen, slots)
        self.addresses = [sock.getsockname()[:2] for sock in self._by_slot[0]]
        for place in listen_unix:
            use = SocketUse("clients' socket", "--listen-unix", False, place.mode, place.user, place.group, BACKLOG)
            listening = self._files.enter_context(socket_file(Path(place.path), use)).listening
            listening.setblocking(False)
            self.paths.append(place.path)
            for sockets in self._by_slot:
                sockets.append(listening.dup())

    def of(self, slot: WorkerSlot) -> list[socket.socket]:
        """Return the sockets that the slot's workers inherit."""
        return self._by_slot[slot.number - 1]

    def rest(self, slot: WorkerSlot) -> None:
        """Stop listening: the kernel would give these sockets connections that nobody takes."""
        listen_no_more(self.of(slot))

    def wake(self, slot: WorkerSlot) -> None:
        """Listen again; nothing happens if they do. Raises ``OSError``."""
        listen_again(self.of(slot))

    def close(self) -> None:
        for sock in [each for sockets in self._by_slot for each in sockets]:
            sock.close()
        self._files.close()
