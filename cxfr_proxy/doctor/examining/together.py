"""Do several things side by side, for as long as all of them take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import trio


async def together(jobs: Iterable[Callable[[], Awaitable[None]]], *, at_a_time: int | None = None) -> None:
    """Return when all are done, of which so many run at one time; ``None``: all.

    An exception ends them all: a job keeps the faults of its node to itself.
    """
    limit = trio.CapacityLimiter(at_a_time) if at_a_time is not None else None

    async def do(job: Callable[[], Awaitable[None]]) -> None:
        if limit is None:
            await job()
            return
        async with limit:
            await job()

    async with trio.open_nursery() as nursery:
        for job in jobs:
            nursery.start_soon(do, job)
