"""Which of many an operator wants to see. A filter goes to the workers, so that only rows that are shown are made."""

from __future__ import annotations

from typing import Final

from msgspec import Raw, Struct

MOST_AT_ONCE: Final = 16
"""Filters that one look through all sessions serves. Each has to be tried on each session, which is cheap beside making
its row, but not nothing."""


class SessionFilter(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Sessions to which all of these apply. ``user`` is a JID, bare or full; ``address`` an IP network, or ``unix`` for
    programs on this machine. ``limit``: no more than so many, the oldest first; ``None``, each: whatever it is."""

    user: str | None = None
    node: str | None = None
    address: str | None = None
    limit: int | None = None


class FoundSessions(Struct, frozen=True):
    """The sessions that match, the oldest first, as far as they are shown. Each is the JSON of a
    :class:`~.rows.SessionRow`, as its worker has written it: there may be very many."""

    rows: list[Raw]
    matching: int
    """How many there are, shown or not."""
