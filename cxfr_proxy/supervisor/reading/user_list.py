"""Read the user map from its file in a thread, and send it to workers in pieces.

A million users take three seconds to read, too long for a process that serves clients to spend at once. As a message
they are ten megabytes, so they are sent in pieces small enough for the channel to carry other things in between.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import trio

from cxfr_proxy import shortage
from cxfr_proxy.admin.console.reloads import ReloadPart, Reloads, log_faults
from cxfr_proxy.cluster.assigned import Assigned
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.sources.file import UserMapFile
from cxfr_proxy.cluster.user_map import UserMap
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.ipc.messages import Listed

USERS_A_PIECE = 50_000
"""Users per piece: some 700 kB, and a few milliseconds."""
_SHOWN_NODES = 10

_log = logging.getLogger(__name__)


class MapFollower(Protocol):
    """Lets workers know of the user map."""

    def users_read(self) -> None:
        """Send the user map to workers: it was read, and may have changed."""


@dataclass(frozen=True, slots=True)
class ReadUsers:
    """A file, and the map that was in it."""

    file: UserMapFile
    listed: UserMap


class UserList:
    """Keeps ``assigned.listed`` as the file has it; ``None``: there is no file, and nothing to be done.

    The constructor reads it for the first time and raises :class:`ConfigError`; log events wait for :meth:`watch`, when
    there are nodes.
    """

    def __init__(
        self,
        file: UserMapFile | None,
        assigned: Assigned,
        cluster: Cluster,
        follower: MapFollower,
        reloads: Reloads,
    ) -> None:
        self._file = file
        self._assigned = assigned
        self._cluster = cluster
        self._follower = follower
        self._reloads = reloads
        self.being_read = trio.Lock()
        """Held while it is read and taken: the file may be read for a change and by a command at once, and the later
        reading has to win."""
        self._waiting = trio.CancelScope()
        self.version = 1
        """The version of the map; one more with each reading."""
        if file is not None:
            with self._reloads.noted(ReloadPart.USER_MAP):
                self._take_over(file.load())

    async def watch(self) -> None:
        """Follow the file until cancelled; faults go to the log."""
        if self._file is not None:
            self._log_size()
        while True:
            with trio.CancelScope() as self._waiting:
                if self._file is None:
                    await trio.sleep_forever()
                else:
                    await self._file.wait_changed()
            if not self._waiting.cancelled_caught and not await self._read_changed():  # else the file is another one
                with trio.move_on_after(shortage.AGAIN_SECONDS) as self._waiting:
                    await trio.sleep_forever()
                self.unread()

    async def _read_changed(self) -> bool:
        """Return false where it may be read by and by as it is."""
        async with self.being_read:
            if self._file is not None:
                try:
                    with self._reloads.noted(ReloadPart.USER_MAP):
                        self.take(await self.read(self._file.path))
                except ConfigError as exc:
                    log_faults(ReloadPart.USER_MAP, exc)
                    return not shortage.passes(exc)
        return True

    async def read(self, path: str | os.PathLike[str] | None) -> ReadUsers | None:
        """Read that file in a thread; ``None``: there is none. The caller holds :attr:`being_read`, until it has taken
        it (:meth:`take`). Cancelling waits for the thread, which takes seconds for millions of users: one that went on
        would note its version behind :meth:`unread`, and the change would be missed.

        Raises :class:`ConfigError`.
        """
        if path is None:
            return None
        same = self._file if self._file is not None and self._file.path == os.fspath(path) else None
        file = same if same is not None else UserMapFile(path)
        try:
            with shortage.of_threads():
                return ReadUsers(file, await trio.to_thread.run_sync(file.load))
        except OSError as exc:
            raise ConfigError(f"cannot be read: {exc.strerror}", file=file.path) from exc

    def take(self, read: ReadUsers | None) -> None:
        """Place users by what was read from now on; ``None``: by no file."""
        before, self._file = self._file, read.file if read is not None else None
        if before is not None or self._file is not None:
            self._take_over(read.listed if read is not None else UserMap())
        if self._file is not None:
            self._log_size()
        if before is not self._file:
            self._waiting.cancel()

    def unread(self) -> None:
        """Have :meth:`watch` read the file once more: what was read was not taken."""
        if self._file is not None:
            self._file.unread()

    def _take_over(self, listed: UserMap) -> None:
        self._assigned.listed = listed
        self.version += 1
        self._follower.users_read()

    def _log_size(self) -> None:
        listed = self._assigned.listed
        emit(_log, "user-map", users=len(listed), nodes=len(listed.nodes))
        unknown = [name for name in listed.nodes if name not in self._cluster]
        if unknown:
            shown = ",".join(unknown[:_SHOWN_NODES])
            emit(_log, "user-map-unknown-nodes", level=logging.WARNING, nodes=shown, count=len(unknown))

    def pieces(self) -> Iterator[Listed]:
        """Yield the pieces for workers."""
        if self._file is None and self.version == 1:
            return  # there never was one
        left = len(self._assigned.listed)
        version = self.version
        for piece in self._assigned.listed.pieces(USERS_A_PIECE):
            left -= len(piece)
            # The version is that of the beginning: if another map comes meanwhile, workers drop the rest of this one.
            yield Listed(version, piece.nodes, piece.digests.tobytes(), piece.places.tobytes(), last=left == 0)
