"""Stop logins that take too long on nodes that are being emptied.

A client that has not logged in by then has no session to lose, and would keep its node from being empty.
"""

from __future__ import annotations

import time
from typing import Final

import trio

from cxfr_proxy.session.tables import State
from cxfr_proxy.tasks import Task, isolated
from cxfr_proxy.transfers.leaving import FollowedDrain, Leaving
from cxfr_proxy.transfers.registry import Registry

LOGIN_SECONDS: Final = 10.0
"""Seconds that a login may take on a node that is being emptied: people have been asked for their passwords before."""
_PAUSE_SECONDS: Final = 0.1
"""Least seconds between two looks."""
_SHARE: Final = 0.05
"""Largest share of the time for these looks: thousands of nodes can be leaving."""


class SlowLogins:
    """The logins of one process, on the nodes that ``leaving`` says are drained."""

    def __init__(self, registry: Registry, leaving: Leaving) -> None:
        self._registry = registry
        self._leaving = leaving

    async def run(self) -> None:
        """Stop them until cancelled."""
        took = 0.0
        while True:
            await trio.sleep(max(_PAUSE_SECONDS, took / _SHARE))
            began, now = time.thread_time(), trio.current_time()
            for node, drain in self._leaving.drains.items():
                with isolated(Task.DRAINS, node=node):
                    self._look_at(node, drain, now)
            took = time.thread_time() - began

    def _look_at(self, node: str, drain: FollowedDrain, now: float) -> None:
        if not self._registry.sessions_on(node):
            drain.waiting_reason = None  # no session of that node is left to wait
        # In the grace nobody is moved, logins included.
        for relayed in self._registry.logging_in(node) if drain.stage.moves else ():
            if relayed.session.state is State.NEGOTIATING and now - relayed.opened > LOGIN_SECONDS:
                relayed.stop()
