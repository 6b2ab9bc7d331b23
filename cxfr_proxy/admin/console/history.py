"""The last hour in numbers: how many sessions there were, and what happened to clients in each ten seconds of it.

Monitoring remembers for longer, and there may be none. Samples are taken from counts that workers have reported by
themselves, so that nobody is asked for them; and there are so few that an hour of them is some hundred kilobytes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import trio

from cxfr_proxy import events
from cxfr_proxy.admin.console.parts import Sessions
from cxfr_proxy.admin.rows.rows import HistoryRow, SoftwareRow

SAMPLE_SECONDS: Final = 10.0
SAMPLES: Final = 360
"""An hour of them."""


@dataclass(frozen=True, slots=True)
class _Counted:
    """Counts that only grow, as they were at some time by trio's clock."""

    at: float
    logins: int
    logins_failed: int
    moved: int
    refused: int
    silent: int
    failed: int

    @classmethod
    def by_now(cls, sessions: Sessions) -> Self:
        totals, outcomes = sessions.totals(), sessions.statistics.by_software.values()
        return cls(
            at=trio.current_time(),
            logins=sum(totals.logins),
            logins_failed=sum(totals.failed_logins.values()),
            moved=sum(each.moved for each in outcomes),
            refused=sum(each.refused for each in outcomes),
            silent=sum(each.silent for each in outcomes),
            failed=sum(each.failed for each in outcomes),
        )


class History:
    """Samples of ``sessions``, the last :data:`SAMPLES` of them."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._rows: deque[HistoryRow] = deque(maxlen=SAMPLES)
        self._before: _Counted | None = None  # at the last sample

    async def run(self) -> None:
        """Take samples until cancelled."""
        self._before = _Counted.by_now(self._sessions)
        while True:
            due = self._before.at + SAMPLE_SECONDS
            if trio.current_time() >= due:
                self._take(self._before)
            await trio.sleep_until(due)

    def hand_over(self) -> list[HistoryRow]:
        """Return the samples for a proxy that takes the place of this one, up to this moment."""
        if self._before is not None:
            self._take(self._before)
        return self.rows()

    def take_over(self, rows: Sequence[HistoryRow]) -> None:
        """Go on from the samples of the proxy whose place this one takes, and from the counts of this moment."""
        self._rows = deque(rows, maxlen=SAMPLES)
        self._before = _Counted.by_now(self._sessions)

    def _take(self, before: _Counted) -> None:
        self._before = now = _Counted.by_now(self._sessions)
        self._rows.append(
            HistoryRow(
                time=events.timestamp(time.time()),
                seconds=round(now.at - before.at, 3),
                sessions=self._sessions.sessions,
                logins=now.logins - before.logins,
                logins_failed=now.logins_failed - before.logins_failed,
                moved=now.moved - before.moved,
                refused=now.refused - before.refused,
                silent=now.silent - before.silent,
                failed=now.failed - before.failed,
            )
        )

    def rows(self, limit: int | None = None) -> list[HistoryRow]:
        """Return the samples, the latest last; no more than the last ``limit``."""
        rows = list(self._rows)
        return rows[-limit:] if limit is not None else rows

    def software_rows(self) -> list[SoftwareRow]:
        """Return the transfers by software, the most frequent first."""
        rows = [
            SoftwareRow(
                software,
                transfers=each.moved + each.refused + each.silent + each.failed,
                moved=each.moved,
                refused=each.refused,
                silent=each.silent,
                failed=each.failed,
                returned=each.returned,
            )
            for software, each in self._sessions.statistics.by_software.items()
        ]
        return sorted(rows, key=lambda row: (-row.transfers, row.software))
