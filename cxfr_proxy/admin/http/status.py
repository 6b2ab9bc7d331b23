"""The state of the running proxy, for the pages."""

from __future__ import annotations

from typing import Protocol

from cxfr_proxy.admin.console.parts import Sessions
from cxfr_proxy.admin.metrics.exposition import Exposition
from cxfr_proxy.admin.metrics.scrape import MetricsScraper
from cxfr_proxy.cluster.members import Cluster


class StoppingProxy(Protocol):
    """Knows whether the proxy is to end."""

    def is_stopping(self) -> bool: ...


class ProxyStatus:
    """A :class:`~.pages.PageSource`."""

    def __init__(self, cluster: Cluster, sessions: Sessions, scraper: MetricsScraper, proxy: StoppingProxy) -> None:
        self._cluster = cluster
        self._sessions = sessions
        self._scraper = scraper
        self._proxy = proxy

    def unready(self) -> str | None:
        """Return why no client should be sent here now; ``None``: they may be."""
        if self._proxy.is_stopping():
            return "the proxy is stopping"
        if not any(row.state == "up" for row in self._sessions.worker_rows()):
            return "no worker serves"
        if not any(node.usable for node in self._cluster):
            return "no node is ready and up"
        return None

    async def metrics(self, accept: str) -> Exposition:
        return await self._scraper.metrics(accept)
