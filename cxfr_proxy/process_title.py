"""The names under which processes are listed.

The kernel keeps a name of 15 bytes for each process (``comm`` in proc(5)): ``top``, ``pgrep`` and the journal show it,
and a process may change its own. Its command line, as ``ps -f`` shows it, is memory that was laid out before Python
began. ``setproctitle`` knows how to write there, and is used where it is installed.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

_OWN_NAME: Final = Path("/proc/self/comm")


def name_process(name: str, title: str | None = None) -> None:
    """Have this process listed as ``name``, at most 15 ASCII characters, and with the command line ``title``; ``None``:
    that stays as it was."""
    with contextlib.suppress(OSError):  # there is no /proc here
        _OWN_NAME.write_text(name)
    if title is not None:
        with contextlib.suppress(ImportError):
            from setproctitle import setproctitle

            setproctitle(title)
