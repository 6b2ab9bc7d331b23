"""Log events of the proxy as a whole, however many processes it has."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import trio

from cxfr_proxy.events import emit
from cxfr_proxy.ipc.messages import Present
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.drains import Drain
from cxfr_proxy.transfers.rebalances import Rebalance
from cxfr_proxy.transfers.statistics import WORKER_DIED

_log = logging.getLogger(__name__)


def announce(
    addresses: Iterable[tuple[str, int]],
    paths: Iterable[str],
    *,
    problems: Iterable[str],
    self_signed: bool,
    nodes: int,
    sessions: int,
) -> None:
    """Log at start what an operator has to know. ``problems`` are those of the certificates; ``self_signed``: there is
    only one that the proxy has made. ``sessions``: how many sessions fit."""
    if self_signed:
        emit(
            _log,
            "development-certificate",
            level=logging.WARNING,
            reason="no --certificate: clients see a self-signed one that is made anew at each start",
        )
    log_certificates(problems)
    emit(_log, "capacity", sessions=sessions, reason="descriptors the system allows (ulimit -n), two a session")
    for host, port in addresses:
        emit(_log, "listening", address=host, port=port, nodes=nodes)
    for path in paths:
        emit(_log, "listening", address=f"unix:{path}", nodes=nodes)


def log_certificates(problems: Iterable[str]) -> None:
    """Log what clients or nodes will object to in the certificates."""
    for problem in problems:
        emit(_log, "certificate", level=logging.WARNING, reason=problem)


def log_lost(session: Present, seconds: float) -> None:
    """Log the end of a session that has gone with its worker, ``seconds`` after its last report."""
    emit(
        _log,
        "session-end",
        session=session.session,
        jid=session.full_jid,
        node=session.node,
        reason=WORKER_DIED,
        client=session.address,
        port=session.port,
        seconds=round(session.seconds + seconds, 3),
    )


def log_drain(what: str, drain: Drain, counts: NodeCounts) -> None:
    """Log an event of a drain, as :class:`~cxfr_proxy.transfers.drains.Drains` reports it; ``counts`` are the node's
    by now."""
    emit(
        _log,
        what,
        level=logging.WARNING if drain.waiting_reason is not None else logging.INFO,
        node=drain.node,
        sessions=counts.sessions,
        moved=counts.moved - drain.moved_before,
        returned=(counts.returned - drain.returned_before) or None,
        reason=drain.waiting_reason,
    )


def log_rebalance(what: str, rebalance: Rebalance) -> None:
    """Log an event of a rebalance, as :class:`~cxfr_proxy.transfers.rebalances.Rebalances` reports it."""
    counts = rebalance.counts
    if what == "rebalance-begins":
        emit(_log, what, sessions=counts.planned, reason=rebalance.reason or "an operator has said so")
    else:
        emit(
            _log,
            what,
            moved=counts.moved,
            left=counts.left + counts.held,
            held=counts.held or None,
            reason=rebalance.ended or rebalance.held_reason(trio.current_time()),
        )
