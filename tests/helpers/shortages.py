"""Take away what a process needs."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def few_descriptors(free: int = 0, pid: int | None = None) -> Iterator[None]:
    """That process can open so many more files and sockets; ``None``: this one. What is open stays."""
    number, folder = 0, f"/proc/{pid or 'self'}/fd"
    listed = os.listdir(folder)
    has = {int(name) for name in listed if os.path.lexists(f"{folder}/{name}")}  # but that of the folder itself
    while free or number in has:
        free -= number not in has
        number += 1
    soft, hard = resource.prlimit(pid or 0, resource.RLIMIT_NOFILE)
    resource.prlimit(pid or 0, resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield
    finally:
        resource.prlimit(pid or 0, resource.RLIMIT_NOFILE, (soft, hard))
