"""The program: ``cxfr-proxy``, or ``python -m cxfr_proxy``."""

from __future__ import annotations

import os
import sys
from typing import Final

from cxfr_proxy import signals

_INTERRUPTED: Final = 130
"""As in :mod:`cxfr_proxy.cli.exit_codes`, which has not been loaded yet."""


def main() -> int:
    """Run the program and return the exit code."""
    signals.hold()
    _open_streams()
    try:
        from cxfr_proxy.cli import main as run  # which takes a while, and signals may come

        return run()
    except KeyboardInterrupt:
        return _INTERRUPTED


def _open_streams() -> None:
    """Put /dev/null in the place of standard streams that were closed: the next file or socket would get their
    numbers."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: the stream's own
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False))


if __name__ == "__main__":
    sys.exit(main())
