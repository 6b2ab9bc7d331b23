"""The command: play what is asked for, print the table. Exit code 1 where something is worse than it has to be."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

import trio
from real.certs import Authority

from matrix.limits import faults
from matrix.report import render
from matrix.run import EACH, Cell, Run, Trigger, users
from matrix.sites import Nodes, open_site


async def play(folder: Path, nodes: Collection[Nodes], triggers: Collection[Trigger], each: int) -> list[Cell]:
    """The runs, one after the other; servers are started once for all of theirs."""
    authority = Authority(folder / "ca")
    cells = []
    for one in nodes:
        async with open_site(one, folder, users(each)) as site:
            for trigger in triggers:
                print(f"{one}, {trigger}", file=sys.stderr)
                run = Run(one, trigger, site, folder / f"{one.name}-{trigger.name}", authority, each)
                cells += await run.play()
    return cells


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m matrix", description="Message loss, by nodes, trigger and client.")
    parser.add_argument("--nodes", nargs="+", choices=[each.name.lower() for each in Nodes], help="default: all")
    parser.add_argument("--triggers", nargs="+", choices=[each.name.lower() for each in Trigger], help="default: all")
    parser.add_argument("--clients", type=int, default=EACH, metavar="N", help="of each kind (default: %(default)s)")
    parser.add_argument("--markdown", action="store_true", help="the tables of docs/loss.md")
    given = parser.parse_args()
    nodes = [each for each in Nodes if given.nodes is None or each.name.lower() in given.nodes]
    triggers = [each for each in Trigger if given.triggers is None or each.name.lower() in given.triggers]
    with tempfile.TemporaryDirectory(prefix="cxfr-matrix-") as folder:
        cells = trio.run(play, Path(folder), nodes, triggers, given.clients)
    print(render(cells, markdown=given.markdown))
    wrong = faults(cells)
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
