"""The table, for a terminal as it grows, and whole for docs/clients.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matrix.sites import Nodes

from clients.catalogue import Prepared, Program
from clients.run import Cell, Trigger


def line(cell: Cell) -> str:
    """One cell, as it becomes known."""
    return f"{cell.cluster}, {cell.trigger}: {cell.program.name}: {cell.text}"


def markdown(
    programs: Sequence[Program],
    here: Mapping[Program, Prepared],
    missing: Mapping[Program, str],
    cells: Sequence[Cell],
) -> str:
    """A table for each cluster."""
    lines: list[str] = []
    for cluster in dict.fromkeys(cell.cluster for cell in cells):
        triggers = [trigger for trigger in Trigger if any((c.cluster, c.trigger) == (cluster, trigger) for c in cells)]
        lines += [
            f"### {_title(cluster)}",
            "",
            f"| program | {' | '.join(triggers)} |",
            "|---" * (len(triggers) + 1) + "|",
        ]
        for program in programs:
            if program not in here:
                lines.append(f"| {program.name} | {missing[program]}{' |' * len(triggers)}")
                continue
            found = {cell.trigger: cell for cell in cells if (cell.cluster, cell.program) == (cluster, program)}
            texts = [found[trigger].text if trigger in found else "–" for trigger in triggers]
            lines.append(f"| {program.name} {here[program].version} | {' | '.join(texts)} |")
        lines.append("")
    return "\n".join(lines)


def _title(cluster: Nodes) -> str:
    return str(cluster)[0].upper() + str(cluster)[1:]
