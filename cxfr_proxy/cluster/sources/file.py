"""Files that are followed: the list of nodes, the user map. They are read, and polled for the next version.

Polling is a stat per second. It costs nothing, and works on network file systems, in containers and for files that are
replaced by a rename, which is where change notification fails.

An editor that writes in place truncates first, and the first half of a list is a valid list of fewer nodes: reading it
would drain the others. So a change counts only once two polls in a row have seen the same version.

A file that has vanished is not a change, because editors replace files: everything stays as it was, and the source is
lost until the file is back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

import trio

from cxfr_proxy.cluster.nodes import NodeSpec
from cxfr_proxy.cluster.nodes_file import NodesFileError, parse_nodes
from cxfr_proxy.cluster.sources.source import Reading, Shared, SourceStatus
from cxfr_proxy.cluster.targets import ANYWHERE, RedirectTargets
from cxfr_proxy.cluster.user_map import UserMap, parse_user_map
from cxfr_proxy.cluster.words import not_utf8
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.files import FileVersion, open_file

MAX_FILE_BYTES: Final = 4 << 20
"""Bytes of some 50,000 nodes; more is another file by mistake."""
MAX_USER_MAP_BYTES: Final = 128 << 20
"""Bytes of some three million users."""


class WatchedFile:
    """``path`` as the operator wrote it, also in messages; ``poll_seconds`` between two looks at it. ``what`` it holds,
    in at most ``max_bytes``."""

    def __init__(self, path: str | os.PathLike[str], poll_seconds: float, *, what: str, max_bytes: int) -> None:
        self.path = os.fspath(path)
        self.status = SourceStatus(self.path)
        self.poll_seconds = poll_seconds
        self._what = what
        self._max_bytes = max_bytes
        self._loaded: FileVersion | None = None
        self._why_missing = ""

    async def wait_changed(self) -> None:
        """Wait until the file is another than the one last loaded, or none was, and has come to rest.

        Cancelling loses nothing: the next call finds the same difference.
        """
        await trio.lowlevel.checkpoint()
        before = self._stat()
        while True:
            # The two looks that have to agree are a poll apart, also for a change made before the call.
            await trio.sleep(self.poll_seconds)
            version = self._stat()
            if version is not None:
                self.status.well()
                if version == before and version != self._loaded:
                    return
            elif before is None:
                self.status.lost(self._why_missing)
            before = version

    def unread(self) -> None:
        """Have :meth:`wait_changed` find it changed: what was read was not taken."""
        self._loaded = None

    def _stat(self) -> FileVersion | None:
        """Return the file's version; ``None`` if there is no file. Not in a thread: it takes microseconds."""
        try:
            return FileVersion.of(os.stat(self.path))
        except OSError as exc:
            self._why_missing = exc.strerror or str(exc)
            return None

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """Return the file's content. This version counts as seen, whatever is in it: :meth:`wait_changed` waits for
        another one.

        Raises :class:`ConfigError` if it cannot be read.
        """
        try:
            with open_file(self.path) as file:
                # Before reading: what is written from here on is a change.
                self._loaded = FileVersion.of(os.fstat(file.fileno()))
                if self._loaded.size > self._max_bytes:
                    raise self._too_long()
                yield file
        except OSError as exc:
            self._loaded = self._stat()  # what cannot be read now is not worth a try a second
            reason = exc.strerror or str(exc)
            raise ConfigError(f"expected a readable {self._what}, found: {reason}", file=self.path) from exc

    def _too_long(self) -> ConfigError:
        return ConfigError(f"expected a {self._what} of at most {self._max_bytes} bytes", file=self.path)


class NodesFile(WatchedFile):
    """``targets``: what may be a public address."""

    def __init__(
        self, path: str | os.PathLike[str], poll_seconds: float = 1.0, *, targets: RedirectTargets = ANYWHERE
    ) -> None:
        super().__init__(path, poll_seconds, what="list of nodes", max_bytes=MAX_FILE_BYTES)
        self.name = self.path
        self.shared: Shared | None = None
        self.targets = targets

    def load(self) -> tuple[NodeSpec, ...]:
        """Read the file.

        Raises :class:`NodesFileError` for what is in it, and :class:`ConfigError` where it cannot be read.
        """
        with self._opened() as file:
            data = file.read(self._max_bytes + 1)
        if len(data) > self._max_bytes:
            raise self._too_long()
        try:
            text = data.decode()
        except UnicodeDecodeError as exc:
            raise NodesFileError([not_utf8(exc, self.path)]) from exc
        return parse_nodes(text, self.path, self.targets)

    async def read(self) -> Reading:
        """Read the file as :meth:`load` does."""
        await trio.lowlevel.checkpoint()
        return Reading(self.load())

    async def next_reading(self) -> Reading:
        """Wait for another version, and read it as :meth:`load` does."""
        await self.wait_changed()
        return Reading(self.load())

    def allow(self, targets: RedirectTargets) -> None:
        self.targets = targets

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class UserMapFile(WatchedFile):
    """See :mod:`~cxfr_proxy.cluster.user_map`."""

    def __init__(self, path: str | os.PathLike[str], poll_seconds: float = 1.0) -> None:
        super().__init__(path, poll_seconds, what="list of users", max_bytes=MAX_USER_MAP_BYTES)

    def load(self) -> UserMap:
        """Read the file, which takes some three seconds for a million users.

        Raises :class:`ConfigError`, as :meth:`NodesFile.load` does.
        """
        with self._opened() as file:
            return parse_user_map(file, self.path)
