"""A lock on a file: at most one program has it, and the kernel drops it with the last process that has the descriptor.

So a lock is never stale, and it can be handed over: a process that inherits the descriptor has the lock as well. The
file itself stays, with the process id of whoever has taken the lock: if it were removed, two programs could lock two
files of one name.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import Self


class FileLocked(Exception):
    """Another program has the lock. ``pid`` is its process id, ``None`` if it can't be told."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(pid)
        self.pid = pid


class FileLock:
    """``descriptor`` has the lock; it is not inherited unless somebody passes it on."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def take(cls, path: str) -> Self:
        """Lock that file, which is made if there is none. Raises :class:`FileLocked`, and :class:`OSError`."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            pid = _read_pid(descriptor)
            os.close(descriptor)
            raise FileLocked(pid) from exc
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    @classmethod
    def inherited(cls, descriptor: int, path: str) -> Self | None:
        """Return the lock that was inherited by that descriptor; ``None``: it is none, or one of another file, and
        closed."""
        try:
            os.set_inheritable(descriptor, False)
        except OSError:
            return None
        with suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return cls(descriptor)
        os.close(descriptor)
        return None

    def note_owner(self) -> None:
        """Write this process's id into the file, for those who find it locked. A full disk does no harm."""
        with suppress(OSError):
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Give up the lock, as far as this process goes."""
        os.close(self.descriptor)


def _read_pid(descriptor: int) -> int | None:
    with suppress(OSError, ValueError):
        return int(os.pread(descriptor, 32, 0))
    return None
