"""Signals that come before the proxy can take them.

What these mean to a proxy it can do once it serves; by default they end a process. A deploy hook sends SIGHUP whenever
it runs, be it in the half second in which the proxy is loaded. So they are held back from the first moment on, by a
module that imports nothing else, and arrive when somebody takes them.
"""

from __future__ import annotations

import signal
from typing import Final

HELD: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
ALL: Final = (*HELD, signal.SIGTERM, signal.SIGINT)
"""What a process that serves takes."""


def hold() -> None:
    """Let them wait."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)


def release() -> None:
    """Let those arrive that have come: they are taken now, or the process is none that serves."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


def ignore() -> None:
    """For a worker: what an operator wants, the supervisor is told."""
    for number in ALL:
        signal.signal(number, signal.SIG_IGN)
