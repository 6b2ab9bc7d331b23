"""What an operator can do with the running proxy: :class:`cxfr_proxy.admin.commands.Operations`, carried out."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from typing import Final

import trio

from cxfr_proxy.admin.rows import DrainProgress, NodeRow, SessionRow, TransferRow
from cxfr_proxy.cluster.nodes import Cluster, Node, Wish
from cxfr_proxy.config import Timeouts
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.session.mover import Drain, Mover
from cxfr_proxy.session.registry import Registry, Relayed, TransferRecord

_PROGRESS_SECONDS: Final = 0.2

_log = logging.getLogger(__name__)


class ProxyOperations:
    """``reloader`` reads nodes and certificates again and says in a sentence what has changed."""

    def __init__(
        self, cluster: Cluster, registry: Registry, mover: Mover, timeouts: Timeouts, reloader: Callable[[], str]
    ) -> None:
        self._cluster = cluster
        self._registry = registry
        self._mover = mover
        self._reloader = reloader
        # A client that is closed at the deadline may take that long to be gone, and so may an unfinished login.
        self._closing_seconds = timeouts.node_close_timeout + timeouts.see_other_host_timeout + 1.0

    def drain(self, node: str, *, deadline: float | None = None, rate: float | None = None) -> None:
        self._cluster.get(node).set_wish(Wish.DRAIN)
        self._mover.drain(node, deadline=deadline, rate=rate)

    def undrain(self, node: str) -> None:
        listed = self._cluster.get(node)
        if listed.removed:
            raise ConfigError(f"node '{node}' is no longer in the nodes file; put its line back first")
        listed.set_wish(Wish.READY)
        self._mover.undrain(node)
        self._mover.look_again()
        emit(_log, "undrain", node=node, sessions=self._mover.left(node))

    async def wait_drained(self, node: str) -> AsyncGenerator[DrainProgress, None]:
        self._cluster.get(node)
        drain = self._mover.drains.get(node)
        if drain is None:
            raise ConfigError(f"node '{node}' is not being drained")
        while True:
            progress = self._progress(drain)
            yield progress
            if progress.finished:
                return
            await trio.sleep(_PROGRESS_SECONDS)

    def _progress(self, drain: Drain) -> DrainProgress:
        counts = self._registry.of_node(drain.node)
        moved = counts.moved - drain.moved_before
        left, awaited = self._mover.left(drain.node), self._mover.awaited(drain.node)
        overdue = drain.deadline is not None and trio.current_time() > drain.deadline + self._closing_seconds
        undrained = self._mover.drains.get(drain.node) is not drain
        return DrainProgress(
            node=drain.node,
            total=max(drain.total, moved + left),
            asked=counts.asked - drain.asked_before,
            moved=moved,
            refused=counts.refused - drain.refused_before,
            silent=counts.silent - drain.silent_before,
            failed=counts.failed - drain.failed_before,
            left=left,
            finished=not (left or awaited) or overdue or undrained,
            waiting_reason="the drain was called off" if undrained else drain.waiting_reason,
        )

    def nodes(self) -> list[NodeRow]:
        return [self._node_row(node) for node in self._cluster]

    def _node_row(self, node: Node) -> NodeRow:
        counts = self._registry.of_node(node.name)
        return NodeRow(
            name=node.name,
            address=str(node.spec.address),
            public=str(node.spec.public) if node.spec.public is not None else None,
            wish="removed" if node.removed else str(node.wish),
            health=str(node.health),
            weight=node.spec.weight,
            sessions=counts.sessions,
            moved_away=counts.moved,
            connect_failures=counts.connect_failures,
        )

    def sessions(self) -> list[SessionRow]:
        now = trio.current_time()
        return [_session_row(relayed, now) for relayed in self._registry]

    def transfers(self) -> list[TransferRow]:
        now = trio.current_time()
        ended = [_transfer_row(record, now) for record in self._registry.recent]
        return ended + [row for relayed in self._registry if (row := _running_row(relayed, now)) is not None]

    def reload(self) -> str:
        return self._reloader()


def _session_row(relayed: Relayed, now: float) -> SessionRow:
    session = relayed.session
    return SessionRow(
        id=relayed.id,
        jid=session.full_jid,
        node=session.node,
        state=session.state.value,
        tls=relayed.tls_version,
        stream_management=session.stream_management,
        client_address=relayed.client_address,
        age_seconds=now - relayed.opened,
        idle_seconds=now - relayed.last_active,
        transfer=str(session.rung) if session.rung is not None else None,
    )


def _running_row(relayed: Relayed, now: float) -> TransferRow | None:
    transfer = relayed.session.transfer_under_way
    if transfer is None:
        return None
    return TransferRow(
        session=relayed.id,
        jid=relayed.session.full_jid or "",
        source=relayed.session.node,
        target=transfer.order.target,
        rung=str(transfer.rung),
        outcome=None,
        seconds_ago=now - transfer.started,
        duration_seconds=now - transfer.started,
        reason=str(transfer.order.trigger),
    )


def _transfer_row(record: TransferRecord, now: float) -> TransferRow:
    rung, outcome = record.tried[-1]
    return TransferRow(
        session=record.session,
        jid=record.full_jid or "",
        source=record.source,
        target=record.target,
        rung=str(rung),
        outcome=str(outcome),
        seconds_ago=now - record.ended + record.seconds,
        duration_seconds=record.seconds,
        reason=str(record.trigger),
    )
