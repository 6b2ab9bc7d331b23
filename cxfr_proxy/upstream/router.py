"""Find a node for a client, and reach it: placement, the node's admission, a connection.

The nodes are tried in the order of placement. A client that may come back for a session is led to the node that has it:
by the id that it wants to resume, else by a guess.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import partial
from typing import NamedTuple, Protocol

import trio

from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.placement import Placement, rank_to_resume
from cxfr_proxy.errors import DomainRefused, NodeError, NoRoom
from cxfr_proxy.events import emit
from cxfr_proxy.net.arrival import Arrival
from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.net.proxy_protocol import ProxiedConnection
from cxfr_proxy.net.waits import Waits
from cxfr_proxy.session.commands import Dial
from cxfr_proxy.session.legs import NodeLeg
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.upstream.admission import Admission
from cxfr_proxy.upstream.dial import Dialer
from cxfr_proxy.upstream.health_checks import NodeReports
from cxfr_proxy.xmpp import jid
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.opening.header import StreamHeader
from cxfr_proxy.xmpp.opening.login import Login

_log = logging.getLogger(__name__)


class UserFinder(Protocol):
    """Finds out where users belong who are in no map."""

    async def find(self, user: str) -> None:
        """Return when it is known of that user (a bare JID), or the time is up that they may wait."""

    def knows(self, user: str) -> bool:
        """Return whether :meth:`find` would ask nobody."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be ready to ask, until cancelled."""


class ReachedNode(NamedTuple):
    """A node that takes a client. ``endpoint`` is the caller's to close."""

    node: Node
    endpoint: Endpoint
    session_id: int
    """The id of the session that begins there; the node may have been told."""


class Router:
    """Finds nodes for clients. ``users`` is asked about each user before they are placed; ``None``: nobody is."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        registry: Registry,
        placement: Placement,
        dialer: Dialer,
        checks: NodeReports,
        admission: Admission,
        users: UserFinder | None,
    ) -> None:
        self.cluster = cluster
        self._registry = registry
        self._placement = placement
        self._dialer = dialer
        self._checks = checks
        self._admission = admission
        self.users = users

    async def reach(
        self, header: StreamHeader, login: Login, waiting: Endpoint, arrival: Arrival, silent: Collection[str] = ()
    ) -> ReachedNode:
        """Return the first node in the order of placement that can be reached, when it is the client's turn.

        ``login`` comes before the header. ``waiting`` is the client's end, and ``arrival`` tells of it. Nodes
        that were ``silent`` are left out. Raises :class:`NodeError`, for the client, if there is none, and
        ``OSError`` where the client has left.
        """
        user, domain = login.user or hinted_user(header), header.to or ""
        if user is not None and self.users is not None and not self.users.knows(user):
            await waiting.waits.in_trio(partial(self.users.find, user))
        ranked = self._placement.rank(user, domain, self._registry.sessions_by_node())
        holder = self._holder(login, user, domain, arrival.address)
        if holder is not None:
            ranked = rank_to_resume(ranked, holder)
        # Now, since a PROXY header may tell the node.
        session_id = self._registry.new_id()
        for node in (node for node in ranked if node.name not in silent):
            # Counted from here on, or a burst of logins would all see the same emptiest node.
            with self._registry.expecting(node.name):
                if self._admission.limits and not await self._admit(node, arrival, waiting):
                    continue
                tells = node.spec.send_proxy is not None
                client = arrival.passed_on(waiting.transport, session_id) if tells else None
                try:
                    endpoint = await self._dialer.dial(node.spec, domain, client, waits=waiting.waits)
                except NoRoom as exc:
                    emit(_log, "dial-failed", level=logging.ERROR, node=node.name, reason=exc.text)
                    continue  # there may be ports left for another address
                except NodeError as exc:
                    self._registry.counts.of_node(node.name).connect_failures += 1
                    if not isinstance(exc, DomainRefused):  # else any name that a client makes up would take it down
                        self._checks.connect_failed(node, exc.text)
                    continue
            return ReachedNode(node, endpoint, session_id)
        raise NodeError(StreamCondition.REMOTE_CONNECTION_FAILED, "no server can take this connection now")

    async def _admit(self, node: Node, arrival: Arrival, waiting: Endpoint) -> bool:
        """Wait until it is the client's turn; false: the node went down meanwhile, or its drain began."""
        usable = node.usable
        await waiting.waits.in_trio(partial(self._admission.admit, node.name, arrival.address, waiting.has_hung_up))
        return node.usable or not usable

    async def log_in(self, dial: Dial, client: ProxiedConnection, waits: Waits) -> tuple[Endpoint, NodeLeg]:
        """Return a connection to that one node, on which that user is logged in and a session can be resumed.

        ``client`` is the client's connection. The caller closes the endpoint. Raises :class:`NodeError`, also where
        there is no such node any more, and ``OSError``. Nothing stays open when cancelled.
        """
        if dial.node not in self.cluster:
            raise NodeError(StreamCondition.REMOTE_CONNECTION_FAILED, f"there is no node {dial.node}")
        return await self._dialer.log_in(self.cluster.get(dial.node).spec, dial, client, waits)

    def takes_sessions(self, node: str) -> bool:
        """Return whether the proxy may log in at that node as its users, by the node's line."""
        return node in self.cluster and self.cluster.get(node).spec.migrates

    def is_elsewhere(self, login: Login, domain: str, node: str) -> bool:
        """Return whether this user's place is another node than that. A user without a place may be anywhere."""
        if login.user is None:
            return False
        sessions = self._registry.sessions_by_node()
        ranked = self._placement.rank(login.user, domain, sessions, up_only=True)
        holder = self._holder(login, login.user, domain, address="")
        if holder is not None:
            ranked = rank_to_resume(ranked, holder)
        elif self._placement.home(login.user, domain, sessions) is None:
            return False
        return bool(ranked) and ranked[0].name != node

    def _holder(self, login: Login, user: str | None, domain: str, address: str) -> Node | None:
        """Return the node with the session that the client wants to resume: by the id if it has given one, else by a
        guess."""
        name = self._registry.memory.node_of_resumable(login.previd) if login.previd is not None else None
        if name is None:
            name = self._registry.memory.returning_clients.node_for(user, address, trio.current_time())
        holder = self.cluster.get(name) if name is not None and name in self.cluster else None
        return holder if holder is not None and holder.spec.serves(domain_key(domain)) else None


def hinted_user(header: StreamHeader) -> str | None:
    """Return who the client says it is, a bare JID; ``None``: it does not.

    A hint, never to be trusted (RFC 6120 section 4.7.1): it only chooses a node.
    """
    if header.from_ is None:
        return None
    try:
        return jid.bare(header.from_)
    except jid.JidError:
        return None
