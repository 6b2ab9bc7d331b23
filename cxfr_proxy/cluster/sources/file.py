"""The list of nodes in a file, and waiting for its next version.

By polling: a stat a second costs nothing, and works on network file systems, in containers and for files that
are replaced by a rename, where change notification is the thing that fails.

An editor that writes in place truncates first, and the first half of a list is a valid list of fewer nodes:
reading it would drain the others. So a change counts only once two polls in a row have seen the same version.
A file that has vanished is not a change, for editors replace files: it counts when it is back.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

import trio

from cxfr_proxy.cluster.nodes import NodesFileError, NodeSpec, parse_nodes
from cxfr_proxy.cluster.sources import Reading, Shared, Standing
from cxfr_proxy.cluster.targets import ANYWHERE, RedirectTargets
from cxfr_proxy.errors import ConfigError

MAX_FILE_BYTES: Final = 4 << 20
"""Some 50,000 nodes; more is another file taken for this one."""


class _Version(NamedTuple):
    """What changes with a file; a write of the same size within a tick of the file system's clock is missed."""

    mtime_ns: int
    size: int
    inode: int


class NodesFile:
    """``path`` as the operator wrote it, also in messages; ``poll_seconds`` between two looks at it. ``targets``: what
    may be a public address."""

    def __init__(
        self, path: str | os.PathLike[str], poll_seconds: float = 1.0, *, targets: RedirectTargets = ANYWHERE
    ) -> None:
        self.path = self.name = os.fspath(path)
        self.standing = Standing(self.name)
        self.shared: Shared | None = None
        self.targets = targets
        self.poll_seconds = poll_seconds
        self._loaded: _Version | None = None

    def load(self) -> tuple[NodeSpec, ...]:
        """Read the file.

        Raises :class:`NodesFileError` for what is in it, and :class:`ConfigError` where it cannot be read.
        Either way this version has been seen: :meth:`wait_changed` waits for another one.
        """
        return parse_nodes(self._decode(self._read()), self.path, self.targets)

    async def read(self) -> Reading:
        """As :meth:`load`."""
        await trio.lowlevel.checkpoint()
        return Reading(self.load())

    async def next_reading(self) -> Reading:
        """As :meth:`load`, when there is another version."""
        await self.wait_changed()
        return Reading(self.load())

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_changed(self) -> None:
        """Return when the file is another than the one last loaded, or none was, and has come to rest.

        Cancelling loses nothing: the next call finds the same difference.
        """
        await trio.lowlevel.checkpoint()
        before = self._stat()
        while True:
            # The two looks that have to agree are a poll apart, also for a change made before the call.
            await trio.sleep(self.poll_seconds)
            version = self._stat()
            if version is not None and version == before and version != self._loaded:
                return
            before = version

    def _stat(self) -> _Version | None:
        """``None`` where there is no file to be seen. Not in a thread: it takes microseconds."""
        try:
            return _version(os.stat(self.path))
        except OSError:
            return None

    def _read(self) -> bytes:
        try:
            with open(self.path, "rb") as file:
                # Before reading: what is written from here on is a change.
                self._loaded = _version(os.fstat(file.fileno()))
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as exc:
            self._loaded = self._stat()  # what cannot be read now is not worth a try a second
            reason = exc.strerror or str(exc)
            raise ConfigError(f"expected a readable list of nodes, found: {reason}", file=self.path) from exc
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError(f"expected a list of nodes of at most {MAX_FILE_BYTES} bytes", file=self.path)
        return data

    def _decode(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as exc:
            before = data[: exc.start]
            line_start = before.rfind(b"\n") + 1
            fault = ConfigError(
                f"expected UTF-8, found the byte 0x{data[exc.start]:02x}",
                file=self.path,
                line=before.count(b"\n") + 1,
                column=len(before[line_start:].decode()) + 1,
            )
            raise NodesFileError([fault]) from exc


def _version(status: os.stat_result) -> _Version:
    return _Version(status.st_mtime_ns, status.st_size, status.st_ino)
