"""The lines of a session in the log."""

from __future__ import annotations

import logging

import trio

from cxfr_proxy.events import emit
from cxfr_proxy.relay.live_session import LiveSession
from cxfr_proxy.session.commands import Ended, Transferred
from cxfr_proxy.session.ladder import Rung
from cxfr_proxy.xmpp.opening.attempt import FailedLogin

_log = logging.getLogger(__name__)


def log_bound(relayed: LiveSession, full_jid: str | None, node: str) -> None:
    """Log that the client has its resource."""
    arrival = relayed.arrival
    emit(
        _log,
        "bound",
        session=relayed.id,
        jid=full_jid,
        node=node,
        client=arrival.address,
        port=arrival.port,
        via=arrival.via,
        unique_id=arrival.unique_id,
        transport=relayed.transport_name,
        tls=relayed.tls_version,
    )


def log_failed_login(relayed: LiveSession, event: FailedLogin) -> None:
    """Log that a password was wrong, or the like. The user comes last, since the client wrote it: programs that read
    the log (fail2ban) match from the left."""
    emit(
        _log,
        "login-failed",
        session=relayed.id,
        client=relayed.client_address,
        port=relayed.client_port,
        node=relayed.session.node,
        condition=str(event.condition),
        mechanism=event.mechanism,
        user=event.user,
        via=relayed.arrival.via,
        unique_id=relayed.arrival.unique_id,
    )


def log_regained(relayed: LiveSession, seconds: float) -> None:
    """Log that the connection to the node broke, and was replaced within so many seconds."""
    session = relayed.session
    emit(_log, "node-regained", session=relayed.id, jid=session.full_jid, node=session.node, seconds=round(seconds, 3))


def log_transfer(relayed: LiveSession, event: Transferred) -> None:
    """Log how a transfer has ended, by its last rung."""
    order, (rung, outcome) = event.order, event.tried[-1]
    emit(
        _log,
        "transfer",
        session=relayed.id,
        jid=relayed.session.full_jid,
        source=event.source,
        target=order.target,
        # By the rung migrate the client is told nothing.
        server=str(order.server) if order.server is not None and rung is not Rung.MIGRATE else None,
        trigger=str(order.trigger),
        rung=str(rung),
        outcome=str(outcome),
        tried=",".join(f"{rung}:{outcome}" for rung, outcome in event.tried),
        seconds=round(event.seconds, 3),
        held_seconds=round(event.held_seconds, 4) if event.held_seconds is not None else None,
        reason=event.not_taken,
    )


def log_end(relayed: LiveSession, event: Ended) -> None:
    """Log that the session is over. (Of one whose worker was killed the supervisor logs it.)"""
    session = relayed.session
    emit(
        _log,
        "session-end",
        session=relayed.id,
        jid=session.full_jid,
        node=session.node,
        reason=str(event.reason),
        condition=event.condition,
        client=relayed.client_address,
        port=relayed.client_port,
        seconds=round(trio.current_time() - relayed.opened, 3),
        late=event.late or None,
        undelivered=event.undelivered or None,
        via=relayed.arrival.via,
        unique_id=relayed.arrival.unique_id,
    )
