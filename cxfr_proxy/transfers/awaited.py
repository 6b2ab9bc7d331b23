"""Clients that were cut from a node and should fetch their sessions from it elsewhere (XEP-0198).

The node is empty only when they have, or when they are not waited for any more.
"""

from __future__ import annotations

from collections import Counter, OrderedDict


class Awaited:
    """At most ``limit`` clients; the oldest go first. Each is waited for as long as the others."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_id: OrderedDict[str, tuple[str, float]] = OrderedDict()  # by resumable id: the node, and until when
        self._by_node: Counter[str] = Counter()

    def cut(self, stream_management_id: str, node: str, until: float) -> None:
        """Wait for a client that was cut from the node just now."""
        self.has_come(stream_management_id)
        self._by_id[stream_management_id] = node, until
        self._by_node[node] += 1
        if len(self._by_id) > self._limit:
            self._drop(*self._by_id.popitem(last=False)[1])

    def has_come(self, stream_management_id: str) -> None:
        """Stop waiting for that client, if it was waited for."""
        known = self._by_id.pop(stream_management_id, None)
        if known is not None:
            self._drop(*known)

    def by_node(self, now: float) -> Counter[str]:
        """Return how many clients of each node are waited for. Callers may read it and must not change it; it stays
        true."""
        # In order of their times, since each is waited for as long as the others.
        while self._by_id and next(iter(self._by_id.values()))[1] <= now:
            self._drop(*self._by_id.popitem(last=False)[1])
        return self._by_node

    def _drop(self, node: str, until: float) -> None:
        self._by_node[node] -= 1
        if not self._by_node[node]:
            del self._by_node[node]
