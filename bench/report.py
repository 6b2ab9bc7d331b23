"""What a bench found: rows of values from several rounds; as a table, as JSON, as a plot."""

from __future__ import annotations

import dataclasses
import importlib
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure, measured in several rounds."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        return cls(tuple(values))

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def over(self, other: Spread) -> float:
        """The median of the rounds' own ratios: what slowed one round down slowed both."""
        return statistics.median(mine / theirs for mine, theirs in zip(self.values, other.values, strict=True))

    def show(self, scale: float = 1.0, digits: int = 1) -> str:
        """``median (min-max)``, or the one value there is."""
        low, middle, high = (
            f"{value * scale:,.{digits}f}" for value in (min(self.values), self.median, max(self.values))
        )
        return middle if len(self.values) == 1 else f"{middle} ({low}-{high})"


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


@dataclass(slots=True)
class Bars:
    """A plot: groups of bars, a bar for each series. ``None`` where a series has nothing in a group."""

    name: str
    title: str
    unit: str
    groups: Sequence[str]
    series: dict[str, list[Spread | None]]


@dataclass(slots=True)
class Report:
    """``data`` is what goes into the JSON file, beside the tables: every round's figures."""

    name: str
    quick: bool
    about: dict[str, str]
    tables: list[Table] = field(default_factory=list)
    plots: list[Bars] = field(default_factory=list)
    data: list[dict[str, object]] = field(default_factory=list)

    def __str__(self) -> str:
        kind = " (quick: for finding bugs, not for quoting)" if self.quick else ""
        about = "; ".join(f"{name}: {value}" for name, value in self.about.items())
        return f"## {self.name}{kind}\n\n{about}\n\n" + "\n".join(map(str, self.tables))

    def to_json(self) -> dict[str, object]:
        tables = [dataclasses.asdict(table) for table in self.tables]
        return {"name": self.name, "quick": self.quick, "about": self.about, "tables": tables, "data": self.data}

    def save(self) -> list[Path]:
        """JSON and plots into :data:`RESULTS`; the files written."""
        RESULTS.mkdir(exist_ok=True)
        stem = f"{self.name}-quick" if self.quick else self.name
        path = RESULTS / f"{stem}.json"
        path.write_text(json.dumps(self.to_json()) + "\n", "utf-8")
        written = [path]
        for bars in self.plots:
            target = RESULTS / f"{stem}-{bars.name}.svg"
            if draw(bars, target):
                written.append(target)
        return written


def draw(bars: Bars, target: Path) -> bool:
    """False where matplotlib is missing: tables and JSON are complete without it."""
    try:
        matplotlib: Any = importlib.import_module("matplotlib")  # Any: an optional library
        matplotlib.use("Agg")
        pyplot: Any = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        print("no plot: matplotlib is not installed (the extra 'bench' has it)", file=sys.stderr)
        return False
    figure, axes = pyplot.subplots(figsize=(max(5.0, 1.6 * len(bars.groups) + 2), 4))
    width = 0.8 / len(bars.series)
    for index, (label, spreads) in enumerate(bars.series.items()):
        there = [(at, spread) for at, spread in enumerate(spreads) if spread is not None]
        middles = [spread.median for _, spread in there]
        below = [spread.median - min(spread.values) for _, spread in there]
        above = [max(spread.values) - spread.median for _, spread in there]
        places = [at + (index - (len(bars.series) - 1) / 2) * width for at, _ in there]
        axes.bar(places, middles, width, yerr=[below, above], capsize=2, label=label)
    axes.set_xticks(range(len(bars.groups)), bars.groups)
    axes.set_ylabel(bars.unit)
    axes.set_title(bars.title)
    axes.legend()
    figure.tight_layout()
    figure.savefig(target)
    pyplot.close(figure)
    return True
