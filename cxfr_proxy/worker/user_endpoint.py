"""The operator's endpoint that says where users belong: another one, or none, from one moment to the next."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

import trio

from cxfr_proxy.cluster.assigned import Answers, Assigned

if TYPE_CHECKING:
    from cxfr_proxy.upstream.user_lookup import UserLookup


class UserEndpoint:
    """Asks the endpoint that is in use, and notes in ``assigned`` what it says; ``nodes`` are the names of those there
    are. It is a :class:`~cxfr_proxy.upstream.router.UserFinder`."""

    def __init__(self, assigned: Assigned, nodes: Container[str]) -> None:
        self._assigned = assigned
        self._nodes = nodes
        self._lookup: UserLookup | None = None
        self._changed = trio.Event()

    def use(self, url: str | None, *, timeout: float, cache: float) -> None:
        """Ask that endpoint from now on, ``None``: nobody. Answers hold for ``cache`` seconds; they stay as long as
        the endpoint does."""
        if self._lookup is not None and self._lookup.url == url:
            self._lookup.timeout = timeout
            assert self._assigned.answers is not None
            self._assigned.answers.seconds = cache
            return
        self._assigned.answers = Answers(cache, trio.current_time) if url is not None else None
        self._lookup = self._lookup_at(url, timeout)
        self._changed.set()
        self._changed = trio.Event()

    def _lookup_at(self, url: str | None, timeout: float) -> UserLookup | None:
        if url is None:
            return None
        from cxfr_proxy.upstream.user_lookup import UserLookup  # an HTTP client takes 60 ms to load

        return UserLookup(url, timeout, self._assigned, self._nodes)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be ready to ask, until cancelled. Requests that are under way when the endpoint changes are given up."""
        while True:
            changed = self._changed
            async with trio.open_nursery() as asking:
                if self._lookup is not None:
                    await asking.start(self._lookup.run)
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                await changed.wait()
                asking.cancel_scope.cancel()

    def knows(self, user: str) -> bool:
        """Return whether :meth:`find` would ask nobody."""
        return self._lookup is None or self._lookup.knows(user)

    async def find(self, user: str) -> None:
        """See :meth:`~cxfr_proxy.upstream.user_lookup.UserLookup.find`."""
        if self._lookup is not None:
            await self._lookup.find(user)
