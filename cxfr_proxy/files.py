"""Read the operator's files: only regular files, so that reading neither waits nor runs for ever. And write one.

Opening a FIFO waits for its other end. If one took the place of a file that is read again and again, the whole proxy
would wait. Reading a device may never end. So both are refused, and named.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final, NamedTuple, Self

from cxfr_proxy.errors import ConfigError

_KINDS: Final[tuple[tuple[Callable[[int], bool], str], ...]] = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


_OPEN_TO_OTHERS: Final = stat.S_IWGRP | stat.S_IRWXO


class FileVersion(NamedTuple):
    """The identity of a file's version; a write of the same size within a tick of the file system's clock is missed."""

    mtime_ns: int
    size: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        return cls(status.st_mtime_ns, status.st_size, status.st_ino)


def version_of(path: str | os.PathLike[str]) -> FileVersion | None:
    """Return the file's version; ``None`` if there is no file. Not in a thread: it takes microseconds."""
    try:
        return FileVersion.of(os.stat(path))
    except OSError:
        return None


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open the file for reading. Raises ``OSError``, also if it is no regular file; ``strerror`` says what it is."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(mode):
            kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
            raise OSError(errno.EINVAL, f"It is {kind}, and no file", os.fspath(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_file(path: str | os.PathLike[str], *, max_bytes: int) -> bytes:
    """Return the whole content, without the byte-order mark that some editors write first.

    Raises like :func:`open_file`, and if the file is larger than ``max_bytes``.
    """
    with open_file(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"It has more than {max_bytes} bytes", os.fspath(path))
    return data.removeprefix(codecs.BOM_UTF8)


def read_secret(path: str | os.PathLike[str], *, max_bytes: int) -> bytes:
    """Return the whole content of a file that nobody but its user may change, and nobody but its user and group read.

    Raises :class:`~cxfr_proxy.errors.ConfigError`, also if the file is larger than ``max_bytes``.
    """
    shown = os.fspath(path)
    try:
        with open_file(path) as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(max_bytes + 1)
    except OSError as exc:
        raise ConfigError(f"cannot be read: {exc.strerror}", file=shown) from exc
    if mode & _OPEN_TO_OTHERS:
        raise ConfigError(
            f"expected a file that nobody else can read or change, found mode {stat.S_IMODE(mode):04o} "
            "(chmod g-w,o-rwx)",
            file=shown,
        )
    if len(content) > max_bytes:
        raise ConfigError(f"expected at most {max_bytes} bytes", file=shown)
    return content.removeprefix(codecs.BOM_UTF8)


def replace_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Have the file hold this, readable by its user only. It is on disk when this returns; before that, whatever
    happens, the file is as it was. Raises ``OSError``.
    """
    directory, name = os.path.split(os.path.abspath(path))
    descriptor, temporary = tempfile.mkstemp(prefix=f"{name}.", dir=directory)  # its mode is 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    # The new name is in the directory, which has to be on disk as well.
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def content_as_path(content: bytes) -> Iterator[str]:
    """Make a path that has this content for the duration of the block, readable by this process, or at least by its
    user only."""
    with os.fdopen(os.memfd_create("cxfr-proxy-content", os.MFD_CLOEXEC), "wb", buffering=0) as memory:
        path = f"/proc/self/fd/{memory.fileno()}"
        if os.path.exists(path):
            memory.write(content)
            yield path
            return
    with tempfile.NamedTemporaryFile(prefix="cxfr-proxy-", suffix=".pem", buffering=0) as file:  # its mode is 0600
        file.write(content)
        yield file.name
