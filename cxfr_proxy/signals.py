"""Hold back signals that come before the proxy can take them.

A proxy knows what to do with them once it serves; by default they end a process. A deploy hook sends SIGHUP whenever it
runs, even in the half second in which the proxy is being loaded. So a module that imports nothing else holds them back
from the first moment on, and they arrive when somebody takes them.
"""

from __future__ import annotations

import signal
from typing import Final

HELD: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
ALL: Final = (*HELD, signal.SIGTERM, signal.SIGINT)
"""The signals that a process that serves takes."""


def hold() -> None:
    """Hold the signals back."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)


def release() -> None:
    """Let the signals arrive that have come: they are taken now, or this process doesn't serve."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


def ignore() -> None:
    """Ignore the signals, in a worker: operators signal the supervisor."""
    for number in ALL:
        signal.signal(number, signal.SIG_IGN)
