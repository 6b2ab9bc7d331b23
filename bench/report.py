"""The results of a bench: values of several rounds; tables of them, goals they meet or miss, plots; all of it as
JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.plots import Plot, draw
from bench.spread import Spread

RESULTS: Final = Path(__file__).parent / "results"


@dataclass(slots=True)
class Table:
    """``rows`` are cells as text, the first column is left-aligned; ``notes`` stand below."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: object) -> None:
        """A row; ``None`` is an empty cell."""
        self.rows.append(["" if cell is None else str(cell) for cell in cells])

    def __str__(self) -> str:
        lines = [list(self.columns), *self.rows]
        widths = [max(len(line[at]) for line in lines) for at in range(len(self.columns))]
        text = [_line(line, widths) for line in lines]
        text.insert(
            1, "|" + "|".join("-" * (width + 1) + (":" if at else "-") for at, width in enumerate(widths)) + "|"
        )
        return "\n".join([f"### {self.title}", "", *text, "", *(f"- {note}" for note in self.notes)]) + "\n"


def columns(names: str) -> list[str]:
    """``"relay | sessions | …"``."""
    return [name.strip() for name in names.split("|")]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.ljust(width) if at == 0 else cell.rjust(width)
        for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "| " + " | ".join([first, *rest]) + " |"


# --- goals


@dataclass(frozen=True, slots=True)
class Goal:
    """The goal of the proxy: at most ``limit``, or at least. The median counts.

    ``found`` ``None``: nothing to measure it by on this machine, or in this run.
    """

    what: str
    limit: float
    found: Spread | None
    unit: str = ""
    at_least: bool = False

    @property
    def holds(self) -> bool | None:
        """``None``: not measured."""
        if self.found is None:
            return None
        return self.found.median >= self.limit if self.at_least else self.found.median <= self.limit

    def cells(self) -> list[str]:
        sign = ">=" if self.at_least else "<="
        found = self.found.show(digits=_digits(self.limit)) if self.found is not None else ""
        return [self.what, f"{sign} {self.limit:,g}{self.unit}", found, _HOLDS[self.holds]]

    def to_json(self) -> dict[str, object]:
        values = self.found.values if self.found is not None else None
        return {**dataclasses.asdict(self), "found": values, "holds": self.holds}


_HOLDS: Final = {True: "yes", False: "NO", None: "not measured"}


def _digits(limit: float) -> int:
    """As many as a reader needs to see on which side of the limit a figure is; a limit of 0 is for counts."""
    return 0 if limit >= 100 or not limit else 1 if limit >= 10 else 2


def goals_table(title: str, goals: Iterable[Goal]) -> Table:
    """One row a goal."""
    table = Table(title, columns("goal | limit | found: median (min-max) | holds"))
    for goal in goals:
        table.rows.append(goal.cells())
    counts = [sum(row[-1] == word for row in table.rows) for word in _HOLDS.values()]
    table.notes.append("{} hold, {} do not, {} were not measured".format(*counts))
    return table


# --- the whole


@dataclass(slots=True)
class Report:
    """``data`` is what goes into the JSON file, beside tables and goals: every round's figures."""

    name: str
    quick: bool
    about: dict[str, str]
    tables: list[Table] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    data: list[dict[str, object]] = field(default_factory=list)

    def __str__(self) -> str:
        kind = " (quick: for finding bugs, not for quoting)" if self.quick else ""
        about = "; ".join(f"{name}: {value}" for name, value in self.about.items())
        goals = [goals_table(f"{self.name.capitalize()}: goals", self.goals)] if self.goals else []
        return f"## {self.name}{kind}\n\n{about}\n\n" + "\n".join(map(str, [*self.tables, *goals]))

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "quick": self.quick,
            "about": self.about,
            "goals": [goal.to_json() for goal in self.goals],
            "tables": [dataclasses.asdict(table) for table in self.tables],
            "data": self.data,
        }

    def save(self, folder: Path) -> list[Path]:
        """Tables, JSON and plots into ``folder``; the files written. No plots where matplotlib is missing."""
        folder.mkdir(exist_ok=True)
        stem = f"{self.name}-quick" if self.quick else self.name
        texts = {folder / f"{stem}.md": str(self), folder / f"{stem}.json": json.dumps(self.to_json())}
        for path, text in texts.items():
            path.write_text(text.rstrip("\n") + "\n", "utf-8")
        targets = {folder / f"{stem}-{plot.name}.png": plot for plot in self.plots}
        return [*texts, *(target for target, plot in targets.items() if draw(plot, target, note=self._caption()))]

    def _caption(self) -> str:
        quick = "a quick run, not for quoting; " if self.quick else ""
        return f"{quick}{self.about.get('cpu', '')}, {self.about.get('cores', '?')} cores, {self.about.get('when', '')}"
