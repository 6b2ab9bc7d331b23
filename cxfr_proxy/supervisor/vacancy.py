"""Log once that no node is left on which logins could be placed, and again when there is one.

Checks, a changed list, a forced command or another proxy's can each leave no node. The consequence is the same: every
login is refused, or tried on nodes that are known to be down.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

import trio

from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.events import emit
from cxfr_proxy.spellings import domain_key

_LOOK_SECONDS: Final = 0.25

_log = logging.getLogger(__name__)


class Vacancy:
    """``domains`` are those that the proxy serves, each logged by itself; empty: any, all as one."""

    def __init__(self, cluster: Cluster, domains: Iterable[str]) -> None:
        self._cluster = cluster
        self._vacant: set[str | None] = set()
        self.set_domains(domains)

    def set_domains(self, domains: Iterable[str]) -> None:
        """Look for these from now on."""
        self._domains: tuple[str | None, ...] = tuple(map(domain_key, domains)) or (None,)
        self._vacant &= set(self._domains)
        self._seen: int | None = None  # the cluster's version

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self._look()
            await trio.sleep(_LOOK_SECONDS)

    def _look(self) -> None:
        if self._cluster.version == self._seen:
            return
        self._seen = self._cluster.version
        usable = [node for node in self._cluster if node.usable]
        for domain in self._domains:
            vacant = not any(node.spec.serves(domain) for node in usable)
            if vacant and domain not in self._vacant:
                self._vacant.add(domain)
                reason = "no node is ready and up: logins are refused"
                emit(_log, "no-node", level=logging.ERROR, domain=domain, reason=reason)
            elif not vacant and domain in self._vacant:
                self._vacant.discard(domain)
                emit(_log, "node-again", domain=domain)
