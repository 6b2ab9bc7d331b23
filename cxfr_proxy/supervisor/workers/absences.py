"""Note the clients that have moved and are away, and their returns, so that each return is logged once.

This is done in the supervisor, which hears of every transfer and every login.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import trio
from msgspec.structs import replace

from cxfr_proxy.admin.rows.rows import TransferRow
from cxfr_proxy.events import emit
from cxfr_proxy.ipc.messages import Present
from cxfr_proxy.session.commands import Outcome
from cxfr_proxy.session.ladder import Rung
from cxfr_proxy.transfers.returns import ReturnedClient, Returns
from cxfr_proxy.transfers.statistics import PastTransfer, TransferStatistics

_log = logging.getLogger(__name__)


class Absences:
    """The clients that are away. Returns are counted in ``statistics``, and logged."""

    def __init__(self, statistics: TransferStatistics) -> None:
        self._statistics = statistics
        self._returns = Returns()

    def note_transfer(self, session: int, full_jid: str | None, transfer: PastTransfer) -> None:
        """Note that the transfer of that session is over."""
        back = self._returns.note_transfer(session, full_jid, transfer, trio.current_time())
        self._note(back, None)

    def note_login(self, client: Present) -> None:
        """Note that a client has logged in."""
        now = trio.current_time()
        back = self._returns.note_login(client.session, client.full_jid, now, resumed=client.resumed)
        self._note(back, client.node)

    def _note(self, back: ReturnedClient | None, node: str | None) -> None:
        """Log a return. ``node`` is ``None`` if the client had logged in before it left."""
        if back is None:
            return
        gone = back.gone
        self._statistics.add_return(gone.transfer, back.seconds, resumed=back.resumed)
        if back.rung is Rung.MIGRATE:
            return  # the transfer's own line says all there is to say
        emit(
            _log,
            "returned",
            session=back.session,
            jid=back.full_jid,
            node=node,
            moved_session=gone.session,
            source=gone.transfer.node,
            rung=str(back.rung),
            seconds=round(back.seconds, 3),
        )

    def returned_from(self, node: str) -> int:
        """Return how many clients have returned that had left that node."""
        return self._statistics.returned_from(node)

    def complete(self, rows: Iterable[TransferRow]) -> list[TransferRow]:
        """Return the same rows, with the seconds after which the clients returned."""
        seconds = self._returns.seconds
        return [
            replace(row, returned_seconds=seconds.get(row.session)) if row.outcome == Outcome.MOVED else row
            for row in rows
        ]
