"""The command: get the programs, play what is asked for, print each cell as it becomes known, and the table.

Exit code 1 where a program that is known to come back was lost.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path

import trio
from matrix.sites import Nodes, open_site
from real.certs import Authority

from clients import table
from clients.catalogue import PROGRAMS, Missing, Prepared, Program
from clients.run import Cell, Run, Trigger, users

_CLUSTERS = (Nodes.EJABBERD, Nodes.PROSODY, Nodes.MIGRATING)


def get(programs: Collection[Program], workshop: Path) -> tuple[dict[Program, Prepared], dict[Program, str]]:
    """Those that are here, and of the others why they are not."""
    here: dict[Program, Prepared] = {}
    missing: dict[Program, str] = {}
    for program in programs:
        try:
            here[program] = program.prepare(workshop)
            print(f"{program.name}: {here[program].version}", flush=True)
        except Missing as reason:
            missing[program] = f"not here: {reason}"
            print(f"{program.name}: {missing[program]}", flush=True)
    return here, missing


async def play(
    folder: Path,
    logs: Path | None,
    programs: Mapping[Program, Prepared],
    clusters: Collection[Nodes],
    triggers: Collection[Trigger],
) -> list[Cell]:
    """The runs, one after the other; servers are started once for all of theirs."""
    authority = Authority(folder / "ca")
    cells: list[Cell] = []
    for cluster in clusters:
        async with open_site(cluster, folder, users(list(programs))) as site:
            for trigger in triggers:
                run = Run(cluster, trigger, site, folder / f"{cluster.name}-{trigger.name}", authority, programs)
                played = await run.play()
                for cell in played:
                    print(table.line(cell), flush=True)
                cells += played
                if logs is not None:
                    ignored = shutil.ignore_patterns("profile")  # of a browser, with its sockets
                    shutil.copytree(run.folder, logs / run.folder.name, ignore=ignored, dirs_exist_ok=True)
    return cells


def lost(cells: Collection[Cell]) -> list[Cell]:
    """Return the clients that are not back, though their software could be."""
    return [cell for cell in cells if cell.seconds is None and not cell.stayed and not cell.program.stays_down]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m clients", description="Which client programs are back after what.")
    parser.add_argument("--programs", nargs="+", choices=[each.user for each in PROGRAMS], help="default: all")
    parser.add_argument("--quick", action="store_true", help="only programs that install in a minute")
    parser.add_argument(
        "--clusters", nargs="+", choices=[each.name.lower() for each in _CLUSTERS], help="default: the first two"
    )
    parser.add_argument("--triggers", nargs="+", choices=[each.name.lower() for each in Trigger], help="default: all")
    parser.add_argument(
        "--workshop", type=Path, help="a folder for what is built and installed, kept for the next call"
    )
    parser.add_argument("--logs", type=Path, help="a folder for what the programs say")
    parser.add_argument("--markdown", type=Path, help="a file for the table")
    given = parser.parse_args()
    programs = [
        each
        for each in PROGRAMS
        if (given.programs is None or each.user in given.programs) and (each.quick or not given.quick)
    ]
    usual = [each.name.lower() for each in _CLUSTERS[:2]]
    clusters = [each for each in _CLUSTERS if each.name.lower() in (given.clusters or usual)]
    triggers = [each for each in Trigger if given.triggers is None or each.name.lower() in given.triggers]
    with tempfile.TemporaryDirectory(prefix="cxfr-clients-") as folder:
        workshop = given.workshop if given.workshop is not None else Path(folder) / "workshop"
        workshop.mkdir(parents=True, exist_ok=True)
        here, missing = get(programs, workshop.resolve())
        cells = trio.run(play, Path(folder), given.logs, here, clusters, triggers)
    text = f"Measured on {datetime.now(UTC):%Y-%m-%d}.\n\n{table.markdown(programs, here, missing, cells)}"
    print(f"\n{text}")
    if given.markdown is not None:
        given.markdown.write_text(text, "utf-8")
    wrong = lost(cells)
    for cell in wrong:
        print(f"lost: {table.line(cell)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
