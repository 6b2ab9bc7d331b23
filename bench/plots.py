"""Plots of what was measured: bars with their spread, and lines. One look for all, a colour for each relay.

matplotlib is optional: tables and JSON are complete without it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.spread import Spread


@dataclass(slots=True)
class Bars:
    """Groups of bars, a bar for each series; ``None`` where a series has nothing in a group.

    ``limit`` draws a line at what a goal allows: for each group, or ``None`` where there is none.
    """

    title: str
    unit: str
    groups: list[str] = field(default_factory=list)
    series: dict[str, list[Spread | None]] = field(default_factory=dict)
    limit: list[float | None] = field(default_factory=list)
    logarithmic: bool = False
    digits: int = 1

    def add_group(self, name: str, spreads: dict[str, Spread | None], limit: float | None = None) -> None:
        """A group of bars; a series that is new in it has nothing in those before."""
        for label in spreads:
            self.series.setdefault(label, [None] * len(self.groups))
        for label, there in self.series.items():
            there.append(spreads.get(label))
        self.groups.append(name)
        self.limit.append(limit)


@dataclass(slots=True)
class Lines:
    """``series`` are points by label; that of :data:`_PLAN` is drawn thin. ``steps``: a value holds up to the next."""

    title: str
    x: str
    y: str
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    steps: bool = False


Panel = Bars | Lines


@dataclass(slots=True)
class Plot:
    """One picture: panels, ``across`` of them in a row."""

    name: str
    title: str
    panels: Sequence[Panel]
    across: int = 2


_COLOURS: Final = {
    "proxy": "#1f6f8b",
    "haproxy": "#e07a3f",
    "nginx": "#5a9e5f",
    "bare": "#8c8c8c",
    "native": "#1f6f8b",
    "lxml": "#e07a3f",
}
"""By a label's first word. All others: :data:`_OTHERS` in their order."""
_OTHERS: Final = ("#99b8c4", "#7a5195", "#c9a227", "#b5485d")
_PLAN: Final = "plan"
_INK: Final = "#333333"
_PANEL_WIDTH: Final = 5.6
_PANEL_HEIGHT: Final = 3.6


def draw(plot: Plot, target: Path, *, note: str = "") -> bool:
    """False where matplotlib is missing. ``note`` stands small below the panels."""
    try:
        matplotlib: Any = importlib.import_module("matplotlib")  # Any: an optional library
        matplotlib.use("Agg")
        pyplot: Any = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        print("no plot: matplotlib is not installed (the extra 'bench' has it)", file=sys.stderr)
        return False
    across = min(plot.across, len(plot.panels))
    down = -(-len(plot.panels) // across)
    size = (_PANEL_WIDTH * across, _PANEL_HEIGHT * down + 0.8)
    figure, grid = pyplot.subplots(down, across, figsize=size, squeeze=False, layout="constrained")
    places = [axes for row in grid for axes in row]
    for axes, panel in zip(places, plot.panels, strict=False):
        if isinstance(panel, Bars):
            _draw_bars(axes, panel)
        else:
            _draw_lines(axes, panel)
        _tidy(axes, panel.title)
    for axes in places[len(plot.panels) :]:
        axes.set_visible(False)
    figure.suptitle(plot.title, fontsize=13, fontweight="bold", color=_INK)
    figure.supxlabel(note, fontsize=7, color="#888888")
    figure.savefig(target, dpi=130)
    pyplot.close(figure)
    return True


def _draw_bars(axes: Any, bars: Bars) -> None:
    width = 0.84 / max(1, len(bars.series))
    colours = _colours(bars.series)
    for index, (label, spreads) in enumerate(bars.series.items()):
        there = [(at, spread) for at, spread in enumerate(spreads) if spread is not None]
        places = [at + (index - (len(bars.series) - 1) / 2) * width for at, _ in there]
        off = [
            [spread.median - spread.low for _, spread in there],
            [spread.high - spread.median for _, spread in there],
        ]
        error = {"elinewidth": 0.8, "ecolor": "#555555"}
        middles = [spread.median for _, spread in there]
        drawn = axes.bar(
            places, middles, width * 0.92, yerr=off, capsize=1.5, error_kw=error, label=label, color=colours[label]
        )
        labels = [f"{value:,.{bars.digits}f}" for value in middles]
        axes.bar_label(drawn, labels, padding=2, fontsize=6, color=_INK)
    _draw_limits(axes, bars)
    axes.set_xticks(range(len(bars.groups)), bars.groups)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(bars.unit)
    if bars.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:,g}")
    axes.margins(y=0.1)
    # Below: a legend among bars always hides one.
    axes.legend(frameon=False, fontsize=8, ncols=6, loc="upper center", bbox_to_anchor=(0.5, -0.09))


def _draw_limits(axes: Any, bars: Bars) -> None:
    label: str | None = "goal"
    for at, limit in enumerate(bars.limit):
        if limit is not None:
            axes.hlines(limit, at - 0.46, at + 0.46, color="#b5485d", linewidth=1.2, linestyle="--", label=label)
            label = None  # one entry in the legend is enough


def _draw_lines(axes: Any, lines: Lines) -> None:
    colours = _colours(lines.series)
    for label, points in lines.series.items():
        style: dict[str, object] = {"color": colours[label], "drawstyle": "steps-post" if lines.steps else "default"}
        if label == _PLAN:
            style = {"color": "#999999", "linestyle": "--", "linewidth": 1.0}
        axes.plot([x for x, _ in points], [y for _, y in points], label=label, **style)
    axes.set_xlabel(lines.x)
    axes.set_ylabel(lines.y)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)


def _colours(labels: Sequence[str] | dict[str, Any]) -> dict[str, str]:
    others = iter(_OTHERS)
    first = {label: label.replace(",", " ").split()[0] for label in labels}
    return {label: _COLOURS.get(word) or next(others, _INK) for label, word in first.items()}


def _tidy(axes: Any, title: str) -> None:
    axes.set_title(title, fontsize=10, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
