"""The program: ``cxfr-proxy``, or ``python -m cxfr_proxy``."""

from __future__ import annotations

import sys

from cxfr_proxy import signals


def main() -> int:
    """Run the program and return the exit code."""
    signals.hold()
    from cxfr_proxy.cli import main as run  # which takes a while, and signals may come

    return run()


if __name__ == "__main__":
    sys.exit(main())
