"""Tell what this machine is short of from what is wrong with a file, or with the other end of a connection.

A connection that could not even be begun says nothing of whoever would have been at its other end, and a file that
could not be opened nothing of what is in it. Both are tried again.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cxfr_proxy.errors import ConfigError, WorkerRefusal

SHORTAGES: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))
"""Errors that pass once others have closed: no descriptors left, or no memory."""
AGAIN_SECONDS: Final = 60.0
"""Seconds until the operator's files are read again that could not be read for such an error."""

_TO_READ: Final = SHORTAGES | {errno.EAGAIN}
"""Those of a file that is to be read: a large one is, in a thread."""
_TO_CONNECT: Final = SHORTAGES | {errno.EADDRNOTAVAIL}
"""Those of a connection that is to be made: all local ports may be in use for that address (ip(7))."""


def passes(exc: ConfigError) -> bool:
    """Return whether one of the faults may be over by itself: this machine lacked something for reading a file, or a
    worker for using it."""
    if any(isinstance(each, WorkerRefusal) for each in exc.errors):
        return True
    causes = (each.__cause__ for each in (exc, *exc.errors))
    return any(isinstance(cause, OSError) and cause.errno in _TO_READ for cause in causes)


def of_connecting(exc: OSError) -> str | None:
    """Return what a connection that failed by that error lacked on this machine; ``None``: nothing, as far as can be
    told. Call it at once: where a name was not found, it asks whether there are descriptors now."""
    number = exc.errno
    if isinstance(exc, socket.gaierror):
        # Its numbers are others. The C library finds no name, too, where it has no descriptor to look for it.
        number = _try_socket()
    return os.strerror(number) if number in _TO_CONNECT else None


def is_of_threads(exc: RuntimeError) -> bool:
    """Return whether that says that the system has no further thread for this process (:mod:`threading` has no
    exception of its own for it)."""
    return "new thread" in str(exc)


@contextmanager
def of_threads() -> Iterator[None]:
    """Raise ``OSError`` where the block fails because the system has no further thread for this process."""
    try:
        yield
    except RuntimeError as exc:
        if not is_of_threads(exc):
            raise
        raise OSError(errno.EAGAIN, str(exc)) from exc


def _try_socket() -> int | None:
    """Return the error of making a socket."""
    try:
        socket.socket(socket.AF_UNIX).close()
    except OSError as exc:
        return exc.errno
    return None
