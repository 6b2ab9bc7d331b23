"""Sessions, as a worker shows them to an operator: those that match a filter, and everything that is known of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Final

from msgspec import Raw

from cxfr_proxy.admin.rows.codec import encode
from cxfr_proxy.admin.rows.filters import SessionFilter
from cxfr_proxy.admin.rows.rows import SessionDetailsRow, SessionRow
from cxfr_proxy.net.proxy_protocol import LOCAL
from cxfr_proxy.session.client_software import name_of
from cxfr_proxy.session.commands import Side
from cxfr_proxy.transfers.relayed import Addressed, Relayed, user_of
from cxfr_proxy.worker.parts import WorkerParts

_parsed: Final = lru_cache(maxsize=16)(ip_address)
"""A cache: each of several filters is tried on a session before the next one is looked at."""


class Matcher:
    """Decides whether sessions match a filter, whose limit is not its concern."""

    def __init__(self, wanted: SessionFilter) -> None:
        self._node = wanted.node
        self._addressed = Addressed(wanted.user) if wanted.user is not None else None
        self._local = wanted.address == "unix"
        self._network = ip_network(wanted.address) if wanted.address is not None and not self._local else None

    def matches(self, relayed: Relayed) -> bool:
        session = relayed.session
        if self._node is not None and session.node != self._node:
            return False
        if self._addressed is not None and not self._addressed.includes(session):
            return False
        return self._comes_from_there(relayed.client_address)

    def _comes_from_there(self, address: str) -> bool:
        if self._local or address == LOCAL:
            return (address == LOCAL) if self._local else self._network is None
        return self._network is None or _parsed(address) in self._network


class Selection:
    """The sessions that each of several filters shows, as they are found one after the other."""

    def __init__(self, filters: Sequence[SessionFilter]) -> None:
        self._wanted = [(Matcher(each), each.limit) for each in filters]
        self._shown = [0] * len(filters)

    def matching(self, sessions: Iterable[Relayed]) -> tuple[list[tuple[Relayed, int]], list[int]]:
        """Return the next ones that are shown, each with a bit for each filter by which it is, 1 for the first; and how
        many match each filter, shown or not."""
        shown, matching = [], [0] * len(self._wanted)
        for relayed in sessions:
            shown_by = 0
            for number, (matcher, limit) in enumerate(self._wanted):
                if matcher.matches(relayed):
                    matching[number] += 1
                    if limit is None or self._shown[number] < limit:
                        self._shown[number] += 1
                        shown_by |= 1 << number
            if shown_by:
                shown.append((relayed, shown_by))
        return shown, matching


def session_row(relayed: Relayed, now: float, leaving: int | None) -> Raw:
    """Return the JSON of its row. ``leaving`` is :attr:`~.parts.WorkerParts.leaving_pid`."""
    session = relayed.session
    row = SessionRow(
        id=relayed.id,
        jid=session.full_jid,
        node=session.node,
        state=session.state.value,
        tls=relayed.tls_version,
        transport=relayed.transport_name,
        stream_management=session.stream_management,
        client_address=relayed.client_address,
        age_seconds=now - relayed.opened,
        idle_seconds=now - relayed.last_active,
        transfer=str(session.rung) if session.rung is not None else None,
        inactive=session.inactive,
        leaving=leaving,
    )
    return Raw(encode(row))


def details_row(parts: WorkerParts, relayed: Relayed, now: float) -> SessionDetailsRow:
    """Return everything that is known of it."""
    session, arrival, transfer = relayed.session, relayed.arrival, relayed.session.transfer_under_way
    user, held_until = user_of(session), parts.registry.memory.held_until(relayed.id, now)
    home = None
    if user is not None:
        home = parts.placement.home(user, session.domain, parts.registry.sessions_by_node())
    return SessionDetailsRow(
        id=relayed.id,
        jid=session.full_jid,
        state=session.state.value,
        node=session.node,
        home=home.name if home is not None else None,
        worker=parts.number,
        client_address=arrival.address,
        client_port=arrival.port,
        via=arrival.via,
        unique_id=arrival.unique_id,
        domain=session.domain,
        server_name=arrival.server_name,
        transport=relayed.transport_name,
        tls=relayed.tls_version,
        age_seconds=now - relayed.opened,
        idle_seconds=now - relayed.last_active,
        inactive=session.inactive,
        software=name_of(session.software),
        caps=session.software.caps,
        agent=session.software.agent,
        stays_down=session.stays_down,
        stream_management=session.stream_management,
        resumable=session.can_be_resumed,
        transfer=str(transfer.rung) if transfer is not None else None,
        transfer_target=transfer.order.target if transfer is not None else None,
        transfer_trigger=str(transfer.order.trigger) if transfer is not None else None,
        transfer_seconds=now - transfer.started if transfer is not None else None,
        held_seconds=held_until - now if held_until is not None else None,
        unsent_to_client=relayed.unsent(Side.CLIENT),
        unsent_to_node=relayed.unsent(Side.NODE),
        leaving=parts.leaving_pid,
    )
