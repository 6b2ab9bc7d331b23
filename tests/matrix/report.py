"""The table, for a terminal and for docs/loss.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cxfr_proxy.demo.account import MessageCounts
from matrix.limits import UNAVOIDABLE
from matrix.run import KINDS, Cell, Trigger
from matrix.sites import Nodes

GENTLE: Final = (Trigger.DRAIN, Trigger.REMOVED)
"""The proxy's own doing, with the node alive."""


def _find(cells: Sequence[Cell], nodes: Nodes, trigger: Trigger, kind: object) -> Cell | None:
    return next((c for c in cells if (c.nodes, c.trigger, c.kind) == (nodes, trigger, kind)), None)


def _figures(tally: MessageCounts) -> str:
    return f"{tally.lost} / {tally.twice} / {tally.disordered}"


def _rungs(cell: Cell) -> str:
    names = ", ".join(sorted(cell.by_rung))
    return f"{names}, resumed" if cell.resumed == cell.clients else names


def _text(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    figures = _figures(cell.tally)
    notes = [str(n) for n, limit in enumerate(UNAVOIDABLE, start=1) if limit.fits(cell)]
    if not cell.tally.whole:
        figures = f"**{figures}** [{', '.join(notes)}]"
    return f"{figures} ({_rungs(cell)})"


def _rows(rows: Sequence[Sequence[str]], *, markdown: bool) -> list[str]:
    if markdown:
        head, *body = [f"| {' | '.join(row)} |" for row in rows]
        return [head, "|" + "---|" * len(rows[0]), *body]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def render(cells: Sequence[Cell], *, markdown: bool) -> str:
    """A table for each kind of nodes, one by rung, and the reasons."""
    lines = []
    heading = "### {}" if markdown else "{}"
    for nodes in dict.fromkeys(cell.nodes for cell in cells):
        triggers = [trigger for trigger in Trigger if any((c.nodes, c.trigger) == (nodes, trigger) for c in cells)]
        body = [[str(kind), *(_text(_find(cells, nodes, trigger, kind)) for trigger in triggers)] for kind in KINDS]
        sent = [
            str(sum(c.tally.sent for c in cells if (c.nodes, c.trigger) == (nodes, trigger))) for trigger in triggers
        ]
        rows = [["client", *map(str, triggers)], *body, ["*messages*" if markdown else "messages", *sent]]
        lines += [heading.format(str(nodes)[0].upper() + str(nodes)[1:]), "", *_rows(rows, markdown=markdown), ""]
    lines += [heading.format("By rung"), "", *_rows(_by_rung(cells), markdown=markdown), ""]
    lines += [heading.format("What no proxy can save"), ""]
    lines += [f"{number}. *{limit.trigger}*: {limit.reason}" for number, limit in enumerate(UNAVOIDABLE, start=1)]
    return "\n".join(lines)


def _by_rung(cells: Sequence[Cell]) -> list[list[str]]:
    rows = [["rung", *map(str, Trigger)]]
    for rung in sorted({rung for cell in cells for rung in cell.by_rung}):
        row = [rung]
        for trigger in Trigger:
            tallies = [c.by_rung[rung] for c in cells if c.trigger is trigger and rung in c.by_rung]
            total = sum(tallies, MessageCounts())
            row.append(f"{_figures(total)} of {total.sent}" if tallies else "–")
        rows.append(row)
    return rows
