"""The command: play one run, print its figures. Exit code 1 where somebody noticed, or a message is not as it has to
be.

A process has two descriptors for each session that it carries, so thousands need workers enough.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import trio

from bench import machine
from unnoticed.run import Terms, play
from unnoticed.scene import Setting


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m unnoticed", description="Sessions that are taken, in thousands.")
    parser.add_argument(
        "--sessions", type=int, default=500, metavar="N", help="half of them move (default: %(default)s)"
    )
    parser.add_argument("--rate", type=float, default=100.0, metavar="N", help="moves a second (default: %(default)g)")
    parser.add_argument(
        "--interval",
        type=float,
        default=5.0,
        metavar="S",
        help="between two messages of a client (default: %(default)g)",
    )
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="the proxy's (default: %(default)s)")
    parser.add_argument(
        "--counting", type=float, default=1.0, metavar="SHARE", help="clients with XEP-0198 (default: %(default)g)"
    )
    parser.add_argument("--by", choices=("migrate", "cut"), default="migrate", help="the rung (default: %(default)s)")
    parser.add_argument(
        "--proxy-option", action="append", default=[], metavar="OPTION", help="for the proxy, as --proxy-option=--x=y"
    )
    given = parser.parse_args()
    machine.raise_descriptor_limit()
    by_cut, options = given.by == "cut", tuple(given.proxy_option)
    stands_in = given.counting < 1 and not by_cut
    setting = Setting(given.sessions, given.workers, given.counting, by_cut, stands_in, options=options)
    terms = Terms(setting, given.rate, given.interval)
    with tempfile.TemporaryDirectory(prefix="cxfr-unnoticed-") as folder:
        figures = trio.run(play, Path(folder), terms)
    print("\n".join(figures.lines()))
    return 0 if figures.unnoticed else 1


if __name__ == "__main__":
    sys.exit(main())
