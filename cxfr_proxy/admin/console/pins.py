"""Pins: users whom an operator wants on a node of the operator's choice."""

from __future__ import annotations

import trio

from cxfr_proxy.admin.console.parts import Peers, Sessions
from cxfr_proxy.admin.rows.rows import PinRow
from cxfr_proxy.cluster.assigned import Pins
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.xmpp import jid


class PinControl:
    def __init__(self, cluster: Cluster, pins: Pins, sessions: Sessions, peers: Peers) -> None:
        self._cluster = cluster
        self._pins = pins
        self._sessions = sessions
        self._peers = peers

    def pin(self, user: str, node: str) -> None:
        """Place the clients of ``user``, a bare JID, on ``node`` from now on.

        The next rebalance moves those that are online. Raises :class:`ConfigError` for a node that is not listed or
        doesn't serve the user's domain, and for too many pins.
        """
        listed = self._cluster.get(node)
        domain = jid.domain(user)
        if not listed.spec.serves(domain_key(domain)):
            raise ConfigError(f"node '{node}' does not serve {domain}: its domain= is {','.join(listed.spec.domain)}")
        self._pins.pin(user, node)
        self._peers.share_pin(user, node)

    def unpin(self, user: str) -> None:
        """Place ``user`` as if there had been no pin. Raises :class:`ConfigError` where there was none."""
        if not self._pins.unpin(user):
            raise ConfigError(f"{user} has no pin (show pins)")
        self._peers.share_pin(user, None)

    async def rows(self) -> list[PinRow]:
        """Return all pins, by user."""
        if not self._pins.nodes:
            await trio.lowlevel.checkpoint()
            return []
        online = await self._sessions.pinned_sessions()
        return [
            PinRow(
                user, node, here=(there := online.get(user, {})).get(node, 0), elsewhere=sorted(there.keys() - {node})
            )
            for user, node in sorted(self._pins.nodes.items())
        ]
