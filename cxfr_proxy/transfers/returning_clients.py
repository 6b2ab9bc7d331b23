"""Clients that are expected back, and the node that each is to be led to.

A client that was lost can resume its session on the node that has it; a client that was sent home belongs on that
node. When a node has to be chosen for a connection, it is not known yet what the connection wants. So the best guess is
a client that has left: by the user, where the client's header names one, and by the address where it does not. By
address each client is guessed once, the last to leave first, so that many behind one address do not all follow a few.

Each worker guesses for itself. It is told which clients have left, and which of those that were sent have returned, to
whichever worker: those are not guessed any more.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

from cxfr_proxy.bounded import BoundedDict
from cxfr_proxy.spellings import user_key

REMEMBERED: Final = 100_000
"""Most users, and most addresses, that are remembered; the oldest go first."""
PER_ADDRESS: Final = 64
"""Most clients that are remembered of one address: behind a NAT there may be any number."""


@dataclass(slots=True)
class _Leaver:
    """A client that has left an address. ``until``: when it is not expected any more. ``taken``: a client that has
    connected was taken for it."""

    user: str | None
    node: str
    until: float
    taken: bool = False


@dataclass(frozen=True, slots=True)
class _Way:
    node: str
    left: float
    until: float


_NEVER: Final = _Way("", -math.inf, -math.inf)


class ReturningClients:
    """Guesses to which node a client returns. Users are bare JIDs, ``None`` if unknown; times are one monotonic
    clock's."""

    def __init__(self) -> None:
        self._users: BoundedDict[str, _Way] = BoundedDict(REMEMBERED)
        self._addresses: BoundedDict[str, deque[_Leaver]] = BoundedDict(REMEMBERED)

    def leaves(self, user: str | None, address: str, node: str, *, at: float, seconds: float) -> None:
        """Lead a client that is leaving, or has left, at that time, to that node for so many seconds."""
        key = user_key(user) if user is not None else None
        if key is not None and at >= self._users.get(key, _NEVER).left:
            self._users[key] = _Way(node, at, at + seconds)
        # Assigned even if it is there: a BoundedDict forgets the entries first that were written longest ago.
        leavers = self._addresses[address] = self._addresses.get(address, deque(maxlen=PER_ADDRESS))
        leavers.append(_Leaver(key, node, at + seconds))

    def node_for(self, user: str | None, address: str, now: float) -> str | None:
        """Return the node to which a client that has connected is led; ``None``: it can be none that is expected."""
        if user is not None:
            way = self._users.get(user_key(user), _NEVER)
            return way.node if now < way.until else None
        for leaver in reversed(self._addresses.get(address, ())):
            if not leaver.taken and now < leaver.until:
                leaver.taken = True
                return leaver.node
        return None

    def is_back(self, user: str | None, address: str, node: str | None) -> None:
        """Stop expecting a client that had left that address and has logged in on that node, or (``None``) by way of
        another process. If it was taken for another client, that one is expected again."""
        own = self._pop(user, address, node)
        if own is None or (own.taken and own.node == node):
            return
        for other in reversed(self._addresses.get(address, ())):
            if other.taken and other.node == node:
                other.taken = False
                return

    def stays(self, user: str | None, address: str, node: str) -> None:
        """Stop expecting a client that was to leave for that node, and has not."""
        own = self._pop(user, address, node, only=True)
        if own is not None and own.user is not None and self._users.get(own.user, _NEVER).node == node:
            del self._users[own.user]

    def _pop(self, user: str | None, address: str, node: str | None, *, only: bool = False) -> _Leaver | None:
        """Of that user's clients that left that address, take the last one that left for that node, else (unless
        ``only``) the last one."""
        key = user_key(user) if user is not None else None
        leavers = self._addresses.get(address, deque())
        own = [leaver for leaver in reversed(leavers) if leaver.user == key]
        found = next((leaver for leaver in own if leaver.node == node), None if only or not own else own[0])
        if found is not None:
            leavers.remove(found)
            if not leavers:
                del self._addresses[address]
        return found
