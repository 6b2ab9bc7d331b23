"""Tell the service manager, while the proxy runs, that it lives, and in a line how it is.

It is told that the proxy lives by a task of the supervisor's loop, and only while a worker serves. So a supervisor that
hangs is found by the manager, as a worker that hangs is found by the supervisor; and a supervisor that can't bring a
worker up any more is started anew by the manager.
"""

from __future__ import annotations

from typing import Final

import trio

from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import Health
from cxfr_proxy.service_manager import ServiceManager
from cxfr_proxy.supervisor.workers.workers import Workers
from cxfr_proxy.units import counted

_STATUS_SECONDS: Final = 5.0
_TIMES_IN_TIME: Final = 3
"""How often the manager is told within its time: two turns may come late."""


class ServiceReports:
    """``manager`` is told of the nodes of ``cluster`` and the sessions of ``workers``."""

    def __init__(self, manager: ServiceManager, cluster: Cluster, workers: Workers) -> None:
        self._manager = manager
        self._cluster = cluster
        self._workers = workers

    async def run(self) -> None:
        """Tell it until cancelled."""
        seconds = self._manager.watchdog_seconds
        pause = _STATUS_SECONDS if seconds is None else min(_STATUS_SECONDS, seconds / _TIMES_IN_TIME)
        while True:
            self._manager.status(self._status())
            if any(link.greeted and not link.gone for link in self._workers):
                self._manager.alive()
            await trio.sleep(pause)

    def _status(self) -> str:
        up = sum(node.health is Health.UP for node in self._cluster)
        return f"{up} of {counted(len(self._cluster), 'node')} up, {counted(self._workers.sessions, 'session')}"
