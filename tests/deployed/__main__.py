"""The command: boot a root, play the story in it. Exit code 1 where something is not as it has to be."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import trio

from deployed.booted import booted
from deployed.story import Story


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m deployed",
        description="The Debian package under a systemd of its own, in namespaces. Needs root.",
    )
    parser.add_argument(
        "root", type=Path, help="a Debian with systemd and python3, as debootstrap makes it; it is not written to"
    )
    parser.add_argument("old", type=Path, help="the package that is installed first")
    parser.add_argument("new", type=Path, help="the package that takes its place; it may be of the same version")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="cxfr-deployed-", dir="/var/tmp") as folder,
        booted(given.root, Path(folder)) as machine,
    ):
        machine.enter_network()
        trio.run(Story(machine, given.old, given.new, Path(folder)).play)
    return 0


if __name__ == "__main__":
    sys.exit(main())
