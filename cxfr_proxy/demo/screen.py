"""Show the demo: a picture redrawn in place on a terminal, elsewhere a line per half second, a table at the end.

Pure functions of a :class:`DemoSnapshot` or a :class:`DemoOutcome` decide what is shown; only :class:`Screen` writes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TextIO

from cxfr_proxy.demo.account import MessageCounts
from cxfr_proxy.demo.habits import ClientKind, SeenRung
from cxfr_proxy.units import agreeing, counted

BAR_WIDTH: Final = 40
WIDTH: Final = 80
RECENT: Final = 5
"""Lines of moves that stay on the screen."""
BUSY: Final = 3.0
"""From this slowness on, the machine is told to be busy."""
TERMINAL_REFRESH_SECONDS: Final = 0.1
LINE_REFRESH_SECONDS: Final = 0.5

_BOLD, _DIM, _GREEN, _RED, _YELLOW = "1", "2", "32", "31", "33"


@dataclass(frozen=True, slots=True)
class KindRow:
    """Clients of one kind: how many there are, how many are between two streams, and by which rung how many moved."""

    kind: ClientKind
    clients: int
    under_way: int
    moved: Mapping[SeenRung, int]
    tally: MessageCounts = field(default_factory=MessageCounts)


@dataclass(frozen=True, slots=True)
class DemoSnapshot:
    """The demo at one moment. ``nodes`` maps names to sessions; ``recent`` are the latest moves, newest last."""

    seconds: float
    phase: str
    clients: int
    nodes: Mapping[str, int]
    kinds: Sequence[KindRow]
    sent: int
    answered: int
    under_way: int
    recent: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class DemoOutcome:
    """How it ended. ``left`` counts sessions still on the drained node; ``faults`` are clients' complaints."""

    drained: str
    seconds: float
    """From the order to drain until everybody was online elsewhere."""
    left: int
    away: int
    """Clients that were nowhere behind that, or that never came."""
    kinds: Sequence[KindRow]
    reported: Mapping[SeenRung, int] = field(default_factory=dict)
    """Transfers by rung as the proxy counted them."""
    faults: Sequence[str] = ()
    by_rung: Mapping[SeenRung, MessageCounts] = field(default_factory=dict)
    """The messages of clients that moved, by rung."""
    returned: Mapping[SeenRung, int] = field(default_factory=dict)
    """How many of those ``reported`` have logged in again, as the proxy saw it."""
    node_ended: bool = False
    """The node stopped or died: the messages that it took with it are nobody's fault here."""
    stuck: str | None = None
    """The step at which nothing moved any more, with how much was missing; ``None``: none."""
    warnings: Mapping[str, int] = field(default_factory=dict)
    """How often the proxy has warned of what."""
    slowness: float = 1.0
    """How many times as long as on an idle machine everything took."""

    @property
    def total(self) -> MessageCounts:
        return sum((row.tally for row in self.kinds), MessageCounts())

    @property
    def good(self) -> bool:
        """Nobody left, nobody lost, and every message came exactly once, as far as that was possible."""
        return not (self.stuck or self.left or self.away) and (self.total.whole or self.node_ended)


_UNNOTICED: Final = "noticed nothing"
"""The name of the row for :attr:`SeenRung.MIGRATE`: what it was for its clients."""


def _headings(rungs: Iterable[SeenRung]) -> list[str]:
    """Return the headings of columns with how many moved by each. Everything fits into 80 columns."""
    return [str(rung).removesuffix("-host") for rung in rungs]


def paint(text: str, code: str, *, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour and text else text


def frame(snapshot: DemoSnapshot, *, colour: bool) -> list[str]:
    """Return the whole picture, line by line."""
    lines = [
        paint("cxfr-proxy demo", _BOLD, colour=colour) + f"   {snapshot.seconds:5.1f} s   {snapshot.phase}",
        "",
    ]
    for node, count in snapshot.nodes.items():
        filled = round(BAR_WIDTH * count / max(1, snapshot.clients))
        bar = paint("█" * filled, _GREEN, colour=colour) + paint("░" * (BAR_WIDTH - filled), _DIM, colour=colour)
        lines.append(f"  {node}  {bar} {count:4} {agreeing(count, 'session', 'sessions')}")
    lines.append("")
    lines += _rows(
        [["client", "count", "moving", *_headings(SeenRung)]]
        + [
            [row.kind, row.clients, row.under_way, *(row.moved.get(rung, 0) for rung in SeenRung)]
            for row in snapshot.kinds
        ],
        colour=colour,
    )
    lines += [
        "",
        f"  numbered messages: {snapshot.sent} sent, {snapshot.answered} answered, {snapshot.under_way} under way",
        "",
    ]
    recent = [text[: WIDTH - 2] for text in snapshot.recent[-RECENT:]]
    return lines + [paint(f"  {text}", _DIM, colour=colour) for text in recent + [""] * (RECENT - len(recent))]


def line(snapshot: DemoSnapshot) -> str:
    """Return the same in one line, for a log or a pipe."""
    nodes = "  ".join(f"{node} {count:3}" for node, count in snapshot.nodes.items())
    moved = sum((Counter(row.moved) for row in snapshot.kinds), Counter[SeenRung]())
    how = ", ".join(f"{rung} {moved[rung]}" for rung in SeenRung if moved[rung]) or "nobody yet"
    return (
        f"{snapshot.seconds:5.1f} s  {snapshot.phase:<28} {nodes}  moved: {how}  "
        f"messages: {snapshot.sent} sent, {snapshot.under_way} under way"
    )


def table(outcome: DemoOutcome, *, colour: bool) -> list[str]:
    """Return the result: a row for each kind of client, their sum, and the verdict in words."""
    moved = sum((Counter(row.moved) for row in outcome.kinds), Counter[SeenRung]())
    seen = [rung for rung in SeenRung if moved[rung]]
    head = ["client", "count", *_headings(seen), *_TALLY]
    body = [_result_row(row.kind, row.clients, seen, row.moved, row.tally) for row in outcome.kinds]
    total = _result_row("all", sum(row.clients for row in outcome.kinds), seen, moved, outcome.total)
    rungs = [
        [
            _UNNOTICED if rung is SeenRung.MIGRATE else rung,
            outcome.reported.get(rung, 0),
            outcome.returned.get(rung, 0),
            *_cells(outcome.by_rung[rung]),
        ]
        for rung in SeenRung
        if rung in outcome.by_rung
    ]
    warned, busy = sorted(outcome.warnings.items()), outcome.slowness >= BUSY
    return [
        "",
        *_rows([head, *body, total], colour=colour),
        "",
        "  count: clients of this kind; then how many of them moved by which rung;",
        "  again: sent once more, because the first one certainly did not arrive;",
        "  order: came out of order",
        "",
        *(_rows([["moved by", "moved", "returned", *_TALLY], *rungs], colour=colour) if rungs else []),
        *(["", *_LEGEND, ""] if rungs else []),
        *(paint(f"  a client says: {fault}", _YELLOW, colour=colour) for fault in outcome.faults[:RECENT]),
        *(paint(f"  the proxy warns: {event} ({count})", _YELLOW, colour=colour) for event, count in warned),
        *([f"  the machine is busy: all this took {outcome.slowness:.0f} times as long as usual"] if busy else []),
        "  " + verdict(outcome, colour=colour),
    ]


def verdict(outcome: DemoOutcome, *, colour: bool) -> str:
    """Return the verdict in one line."""
    total = outcome.total
    if outcome.good:
        good = (
            f"{outcome.drained} emptied in {outcome.seconds:.1f} s: "
            f"{total.lost} lost, {total.twice} twice, of {counted(total.sent, 'message')}"
        )
        if not total.whole:
            good += " (the node's doing)"
        return paint(good, _GREEN if total.whole else _YELLOW, colour=colour)
    what = [
        (outcome.stuck is not None, f"nothing moved any more ({outcome.stuck})"),
        (outcome.left, f"{counted(outcome.left, 'session')} left on {outcome.drained}"),
        (outcome.away, f"{counted(outcome.away, 'client')} not online"),
        (total.lost, f"{counted(total.lost, 'message')} lost"),
        (total.twice, f"{counted(total.twice, 'message')} came twice"),
        (total.disordered, f"{counted(total.disordered, 'message')} out of order"),
    ]
    return paint("FAILED: " + ", ".join(text for count, text in what if count), _RED, colour=colour)


def _result_row(
    name: str, clients: int, rungs: Iterable[SeenRung], moved: Mapping[SeenRung, int], tally: MessageCounts
) -> list[object]:
    return [name, clients, *(moved.get(rung, 0) for rung in rungs), *_cells(tally)]


_LEGEND: Final = (
    "  moved: left by that rung; returned: logged in again through the proxy, and not",
    "  at the other node itself, where those go that follow cxfr or see-other-host;",
    f"  {_UNNOTICED}: the proxy took their sessions to the other node (migrate)",
)
_TALLY: Final = ("sent", "again", "lost", "twice", "order")


def _cells(tally: MessageCounts) -> list[object]:
    return [tally.sent, tally.resent, tally.lost, tally.twice, tally.disordered]


def _rows(rows: Sequence[Sequence[object]], *, colour: bool) -> list[str]:
    """Set columns in line, the first to the left and the rest to the right; a zero is a dot, which is easier on the
    eye."""
    texts = [["·" if cell == 0 else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    lines = [
        "  "
        + " ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in texts
    ]
    return [paint(lines[0], _BOLD, colour=colour), *lines[1:]]


class Screen:
    """Where the demo is shown. ``live`` is ``None`` for: redraw in place if ``out`` is a terminal that can."""

    def __init__(self, out: TextIO, *, live: bool | None = None) -> None:
        self._out = out
        self.live = out.isatty() and os.environ.get("TERM") != "dumb" if live is None else live
        self._colour = self.live and "NO_COLOR" not in os.environ
        self._height = 0

    @property
    def refresh_seconds(self) -> float:
        return TERMINAL_REFRESH_SECONDS if self.live else LINE_REFRESH_SECONDS

    def show(self, snapshot: DemoSnapshot) -> None:
        """Draw over the last picture, or add a line."""
        if not self.live:
            self._write(line(snapshot) + "\n")
            return
        lines = frame(snapshot, colour=self._colour)
        up = f"\x1b[{self._height}F" if self._height else ""
        self._height = len(lines)
        self._write(up + "".join(f"{text}\x1b[K\n" for text in lines))

    def conclude(self, outcome: DemoOutcome) -> None:
        """Add the table below."""
        self._height = 0
        self._write("\n".join(table(outcome, colour=self._colour)) + "\n")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
