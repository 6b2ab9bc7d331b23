"""Take away what a process needs."""

from __future__ import annotations

import fcntl
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def few_descriptors(free: int = 0, pid: int | None = None) -> Iterator[None]:
    """That process can open so many more files and sockets; ``None``: this one. What is open stays. Of another process
    only ``/proc`` tells what it has open: where there is none, the test is skipped."""
    if pid is not None and not os.path.isdir(f"/proc/{pid}/fd"):
        pytest.skip("no /proc here, which tells what another process has open")
    number = 0
    while free or _is_open(number, pid):
        free -= not _is_open(number, pid)
        number += 1
    soft, hard = resource.prlimit(pid or 0, resource.RLIMIT_NOFILE)
    resource.prlimit(pid or 0, resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield
    finally:
        resource.prlimit(pid or 0, resource.RLIMIT_NOFILE, (soft, hard))


def _is_open(number: int, pid: int | None) -> bool:
    if pid is not None:
        return os.path.lexists(f"/proc/{pid}/fd/{number}")
    try:
        fcntl.fcntl(number, fcntl.F_GETFD)
    except OSError:
        return False
    return True
