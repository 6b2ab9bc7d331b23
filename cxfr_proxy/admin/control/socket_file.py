"""The unix socket in the file system, and the lock that names its owner.

A program that can open the socket can do everything, so its mode is 0600 from the moment it exists.

A lock file beside it is held while the proxy lives, and the kernel releases it however the proxy ends. A socket without
a holder is therefore stale for certain, and two proxies that start at once cannot remove each other's. The lock file
itself stays: if it were removed, two processes could hold "the" lock.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.file_lock import FileLock, FileLocked

_log = logging.getLogger(__name__)


_LARGEST_ID: Final = 2**32 - 2
"""Of users and groups on Linux; the one above means none (chown(2))."""


@dataclass(frozen=True, slots=True)
class SocketUse:
    """A use of a socket: ``what`` it is called, and the ``setting`` that names it.

    ``makes_directory``: a missing directory is made, for this user alone. ``mode``, ``user`` and ``group`` are those of
    the file, which is for this user alone until it has them; ``None``: this user's.
    """

    what: str
    setting: str
    makes_directory: bool
    mode: int = 0o600
    user: str | None = None
    group: str | None = None
    backlog: int = 64

    def open_to_others(self, path: Path) -> None:
        """Give the file its owner and mode. Raises ``OSError``, and ``LookupError`` where there is no such user."""
        if self.user is not None:
            shutil.chown(path, user=_name_or_number(self.user))
        if self.group is not None:
            shutil.chown(path, group=_name_or_number(self.group))
        path.chmod(self.mode)


def _name_or_number(name: str) -> str | int:
    if not name.isdecimal():
        return name
    number = int(name)
    if number > _LARGEST_ID:  # chown() would raise OverflowError, or take the next one for "leave it as it is"
        raise LookupError(f"no such user or group: {name}")
    return number


CONTROL: Final = SocketUse("control socket", "--control", makes_directory=True)


@dataclass(slots=True)
class SocketFile:
    """A socket that listens, and the file by which it is found. ``given_away``: another process listens on it by now,
    and the file is not this one's to remove."""

    path: Path
    listening: socket.socket
    own: os.stat_result
    given_away: bool = False

    @property
    def is_gone(self) -> bool:
        """Whether the path leads to another file by now, or to none."""
        try:
            return not os.path.samestat(self.path.lstat(), self.own)
        except OSError:
            return True


@contextmanager
def socket_file(path: Path, use: SocketUse = CONTROL) -> Iterator[SocketFile]:
    """Lock ``path`` and listen on it until the end of the context; remove the file then, if it is still this one.

    Raises :class:`ConfigError` where the socket cannot be had:
    another proxy has it, the directory is open to other users, or the system refuses.
    """
    _prepare_directory(path, use)
    with _locked(path, use), _bound(path, use) as held:
        yield held


@contextmanager
def inherited_socket_file(path: Path, listening: socket.socket) -> Iterator[SocketFile]:
    """Use a socket that listens on ``path`` already; at the end as :func:`socket_file`. It needs no lock: nobody takes
    the place of a socket that answers."""
    with listening:
        try:
            place = SocketFile(path, listening, path.lstat())
        except OSError as exc:
            raise ConfigError(f"{CONTROL.what} {path}: {exc.strerror or exc}") from exc
        try:
            yield place
        finally:
            if not place.given_away:
                _remove_if_same(path, place.own)


def _prepare_directory(path: Path, use: SocketUse) -> None:
    directory = path.parent
    try:
        if use.makes_directory and not directory.exists():
            directory.mkdir(mode=0o700)
        status = directory.stat()
    except OSError as exc:
        raise ConfigError(f"{use.what} {path}: {directory}: {exc.strerror}") from exc
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{use.what} {path}: {directory} belongs to another user, who could replace it")
    # With the sticky bit, as in /tmp, users can only remove files of their own.
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise ConfigError(f"{use.what} {path}: everybody may write in {directory}, and so replace it")


@contextmanager
def _locked(path: Path, use: SocketUse) -> Iterator[None]:
    name = f"{path}.lock"
    try:
        lock = FileLock.take(name)
    except FileLocked as exc:
        raise _in_use(path, use) from exc
    except OSError as exc:
        raise ConfigError(f"{use.what}: {name}: {exc.strerror}") from exc
    try:
        yield
    finally:
        lock.close()


def _in_use(path: Path, use: SocketUse) -> ConfigError:
    return ConfigError(f"another proxy runs with the {use.what} {path} (give this one its own: {use.setting} PATH)")


@contextmanager
def _bound(path: Path, use: SocketUse) -> Iterator[SocketFile]:
    _remove_stale(path, use)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        before = os.umask(0o177)  # the whole process's; nothing else runs until it is put back
        try:
            listening.bind(os.fspath(path))
        except OSError as exc:
            raise ConfigError(f"{use.what} {path}: {exc.strerror or exc}") from exc
        finally:
            os.umask(before)
        own, given_away = path.lstat(), False
        try:
            try:
                use.open_to_others(path)
                listening.listen(use.backlog)
            except (OSError, LookupError) as exc:
                raise ConfigError(f"{use.what} {path}: {getattr(exc, 'strerror', None) or exc}") from exc
            place = SocketFile(path, listening, own)
            try:
                yield place
            finally:
                given_away = place.given_away
        finally:
            if not given_away:
                _remove_if_same(path, own)


def _remove_stale(path: Path, use: SocketUse) -> None:
    """Remove a socket on which nobody listens. Raises :class:`ConfigError` for anything else that is there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as exc:
        raise ConfigError(f"{use.what} {path}: {exc.strerror}") from exc
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"{use.what} {path}: something is there that isn't a socket; it was left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(os.fspath(path))
    # A socket file that nobody listens on refuses.
    if code == errno.ECONNREFUSED:
        _remove_if_same(path, found)
    elif code != errno.ENOENT:  # connected, or EAGAIN: its queue is full
        raise _in_use(path, use)


def _remove_if_same(path: Path, known: os.stat_result) -> None:
    try:
        # By device and inode: by its name, the socket of a proxy that has started since might be removed.
        if os.path.samestat(path.lstat(), known):
            path.unlink()
    except FileNotFoundError:
        pass
    except OSError as exc:
        emit(_log, "control-socket-not-removed", level=logging.WARNING, path=str(path), reason=exc.strerror)
