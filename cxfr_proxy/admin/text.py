"""Rows as text for people: aligned tables, how values are written.

Everything here takes the decoded JSON that the control socket answers, and returns text; nothing prints. A field that
an older proxy doesn't send shows as ``-``. JIDs, addresses and reasons were written by strangers, so :func:`clean`
removes everything that could move a terminal's cursor or colour it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeGuard

from cxfr_proxy.admin.views import Column, Style

RowJson = Mapping[str, object]

NOTHING: Final = "-"


def clean(text: str) -> str:
    """Return ``text`` on one line, with every character that doesn't print replaced by U+FFFD."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


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


def _list(value: object) -> str:
    return plain(", ".join(map(str, value)) if isinstance(value, list) else value)


_WRITTEN: Final[Mapping[Style, Callable[[object], str]]] = {
    Style.TEXT: plain,
    Style.NUMBER: plain,
    Style.SECONDS: duration,
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


def table(columns: Sequence[Column], rows: Sequence[RowJson]) -> str:
    """Return titles and rows in aligned columns, two spaces between them, without a last newline."""
    cells = [[column.title for column in columns]]
    cells += [[cell(column, row) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return "\n".join(_aligned(columns, widths, line) for line in cells)


def _aligned(columns: Sequence[Column], widths: Sequence[int], line: Sequence[str]) -> str:
    parts = zip(columns, widths, line, strict=True)
    padded = [text.rjust(width) if column.style.is_numeric else text.ljust(width) for column, width, text in parts]
    return "  ".join(padded).rstrip()
