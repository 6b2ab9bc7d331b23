"""The tokens of the proxy's one bucket go to workers, one by one."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from cxfr_proxy.ipc.messages import Grant
from cxfr_proxy.supervisor.workers.link import Link
from cxfr_proxy.transfers.pace import OwnPace


class Grants:
    """The proxy's one token bucket, and which worker gets the next token.

    Workers with sessions whose node is gone come first, then those with sessions whose node is down or whose drain is
    late, then those with others that have to leave, then the rest; among these the one with the most to move, so that
    all finish at the same time.

    A worker that can't use its tokens, since its logins take long, gets no more than the bucket holds: others can, and
    all that it kept would be used at once.
    """

    def __init__(self, links: Iterable[Link], pace: OwnPace) -> None:
        self._links = links
        self._pace = pace
        self._work = trio.Event()

    def wanted(self) -> None:
        """Note what a worker wants."""
        self._work.set()

    def put_back(self, tokens: int) -> None:
        for _ in range(tokens):
            self._pace.put_back()

    async def run(self) -> None:
        """Hand out tokens until cancelled."""
        while True:
            while self.next() is None:
                self._work = trio.Event()
                await self._work.wait()
            await self._pace.wait()
            link = self.next()  # again: the wishes may have changed while there was no token
            if link is not None:
                self._pace.spend()
                link.granted += 1
                link.post(Grant(1))

    def next(self) -> Link | None:
        # Tuples compare in order: sessions without a node first, those in a hurry, those that have to leave, then all.
        using = (link for link in self._links if link.tokens_kept < self._pace.burst)
        link = max(using, key=lambda link: link.wanted, default=None)
        return link if link is not None and any(link.wanted) else None
