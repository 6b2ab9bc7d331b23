"""Rows as text for people: aligned tables, how values are written.

Everything here takes the decoded JSON that the control socket answers, and returns text; nothing prints. A field that
an older proxy doesn't send shows as ``-``. JIDs, addresses and reasons were written by strangers, so :func:`clean`
escapes everything that could move a terminal's cursor, colour it or turn its text around, and a cell that is very long
is cut: one resource of a thousand characters would push all other columns off the screen.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeGuard

from cxfr_proxy.admin.commands.views import Column, Style
from cxfr_proxy.events import escaped

RowJson = Mapping[str, object]

NOTHING: Final = "-"
_BETWEEN: Final = "  "
WIDEST_CELL: Final = 60
"""Columns on the screen. Full JIDs are shorter as a rule; the rest is cut, but for the last column, behind which there
is nothing to push away. JSON and single rows have all of it."""


def clean(text: str) -> str:
    """Return ``text`` on one line, with every character that doesn't print escaped as in the log: ``\\u202e``."""
    return text if text.isprintable() else "".join(char if char.isprintable() else escaped(char) for char in text)


def width(text: str) -> int:
    """Return how many columns a terminal takes for a text that :func:`clean` has returned: two for a wide character
    (UAX 11), none for a mark that stands on the one before."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, most: int) -> str:
    """Return as much of the text as fits into so many columns, with ``…`` in the place of the rest. Of marks that take
    no column there are no more than as many again."""
    if len(text) <= 2 * most and width(text) <= most:
        return text
    kept = text[: most - 1]
    while width(kept) > most - 1:
        kept = kept[:-1]
    return kept + "…"


def plain(value: object) -> str:
    """Return any value as people read it."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return clean(str(value))


def duration(value: object) -> str:
    """Return seconds as people say them: ``0.4s``, ``42s``, ``3m10s``, ``5h02m``, ``2d03h``."""
    if not _is_number(value):
        return NOTHING
    if value < 10:
        return f"{value:.1f}s"
    whole = int(value)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _share(value: object) -> str:
    return f"{value:.0%}" if _is_number(value) else NOTHING


def _rate(value: object) -> str:
    return f"{value:.3g}/s" if _is_number(value) else NOTHING


def _size(value: object) -> str:
    if not _is_number(value):
        return NOTHING
    return (
        f"{value / 1048576:.1f} MiB"
        if value >= 1048576
        else f"{value / 1024:.1f} KiB"
        if value >= 1024
        else f"{value} B"
    )


def _list(value: object) -> str:
    return plain(", ".join(map(str, value)) if isinstance(value, list) else value)


_WRITTEN: Final[Mapping[Style, Callable[[object], str]]] = {
    Style.TEXT: plain,
    Style.NUMBER: plain,
    Style.SECONDS: duration,
    Style.SIZE: _size,
    Style.SHARE: _share,
    Style.RATE: _rate,
    Style.LIST: _list,
}


def cell(column: Column, row: RowJson) -> str:
    """Return what stands in that column of the row."""
    if column.field not in row:
        return NOTHING
    value = row[column.field]
    return column.missing if value is None else _WRITTEN[column.style](value)


def table(columns: Sequence[Column], rows: Sequence[RowJson], room: int | None = None) -> str:
    """Return titles and rows in aligned columns, two spaces between them, without a last newline.

    ``room``: how wide it may be. If it is wider, columns that say nothing are left out, the last ones first; ``None``:
    all are there.
    """
    cells = [[column.title, *(cut(cell(column, row), WIDEST_CELL) for row in rows)] for column in columns[:-1]]
    cells.append([columns[-1].title, *(cell(columns[-1], row) for row in rows)])
    widths = [max(map(width, each)) for each in cells]
    shown = list(range(len(columns)))
    for number in reversed(range(len(columns))):
        fits = room is None or sum(widths[each] + len(_BETWEEN) for each in shown) - len(_BETWEEN) <= room
        if not fits and rows and set(cells[number][1:]) == {columns[number].usual}:
            shown.remove(number)
    lines = ((_padded(cells[at][line], widths[at], columns[at].style) for at in shown) for line in range(len(rows) + 1))
    return "\n".join(_BETWEEN.join(line).rstrip() for line in lines)


def record(columns: Sequence[Column], row: RowJson) -> str:
    """Return one row as lines, each with a title and what stands there."""
    widest = max(width(column.title) for column in columns)
    return "\n".join(f"{column.title.ljust(widest)}  {cell(column, row)}" for column in columns)


def _padded(text: str, columns: int, style: Style) -> str:
    space = " " * (columns - width(text))
    return space + text if style.is_numeric else text + space
