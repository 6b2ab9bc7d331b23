"""The unix socket in the file system, and the lock that names its owner.

A program that can open the socket can do everything, so its mode is 0600 from the moment it exists.

A lock file beside it is held while the proxy lives, and the kernel releases it however the proxy ends. A socket without
a holder is therefore stale for certain, and two proxies that start at once cannot remove each other's. The lock file
itself stays: if it were removed, two processes could hold "the" lock.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit

_BACKLOG: Final = 64

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SocketFile:
    """A socket that listens, and the file by which it is found."""

    path: Path
    listening: socket.socket
    own: os.stat_result

    @property
    def is_gone(self) -> bool:
        """Whether the path leads to another file by now, or to none."""
        try:
            return not os.path.samestat(self.path.lstat(), self.own)
        except OSError:
            return True


@contextmanager
def socket_file(path: Path) -> Iterator[SocketFile]:
    """Lock ``path`` and listen on it until the end of the context; remove the file then, if it is still this one.

    A missing directory is made, for this user alone. Raises :class:`ConfigError` where the socket cannot be had:
    another proxy has it, the directory is open to other users, or the system refuses.
    """
    _prepare_directory(path)
    with _locked(path), _bound(path) as held:
        yield held


def _prepare_directory(path: Path) -> None:
    directory = path.parent
    try:
        if not directory.exists():
            directory.mkdir(mode=0o700)
        status = directory.stat()
    except OSError as exc:
        raise ConfigError(f"control socket {path}: {directory}: {exc.strerror}") from exc
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"control socket {path}: {directory} belongs to another user, who could replace it")
    # With the sticky bit, as in /tmp, users can only remove files of their own.
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise ConfigError(f"control socket {path}: everybody may write in {directory}, and so replace it")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    name = f"{path}.lock"
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise ConfigError(f"control socket: {name}: {exc.strerror}") from exc
    try:
        try:
            # The kernel drops the lock with the process, however that ends; a file with a pid in it would outlive it.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise _in_use(path) from exc
        yield
    finally:
        os.close(descriptor)


def _in_use(path: Path) -> ConfigError:
    return ConfigError(f"another proxy runs with the control socket {path} (give this one its own: --control PATH)")


@contextmanager
def _bound(path: Path) -> Iterator[SocketFile]:
    _remove_stale(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        before = os.umask(0o177)  # the whole process's; nothing else runs until it is put back
        try:
            listening.bind(os.fspath(path))
        except OSError as exc:
            raise ConfigError(f"control socket {path}: {exc.strerror or exc}") from exc
        finally:
            os.umask(before)
        own = path.lstat()
        try:
            listening.listen(_BACKLOG)
            yield SocketFile(path, listening, own)
        finally:
            _remove_if_same(path, own)


def _remove_stale(path: Path) -> None:
    """Remove a socket on which nobody listens. Raises :class:`ConfigError` for anything else that is there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as exc:
        raise ConfigError(f"control socket {path}: {exc.strerror}") from exc
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"control socket {path}: something is there that isn't a socket; it was left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(os.fspath(path))
    # A socket file that nobody listens on refuses.
    if code == errno.ECONNREFUSED:
        _remove_if_same(path, found)
    elif code != errno.ENOENT:  # connected, or EAGAIN: its queue is full
        raise _in_use(path)


def _remove_if_same(path: Path, known: os.stat_result) -> None:
    try:
        # By device and inode: by its name, the socket of a proxy that has started since might be removed.
        if os.path.samestat(path.lstat(), known):
            path.unlink()
    except FileNotFoundError:
        pass
    except OSError as exc:
        emit(_log, "control-socket-not-removed", level=logging.WARNING, path=str(path), reason=exc.strerror)
