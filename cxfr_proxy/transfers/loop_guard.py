"""Keep two proxies from sending a client back and forth.

They may disagree about where a user belongs: their lists differ, or their weights, or one knows a pin that the other
does not. Each would send the user to the other. So of a client that was moved because it sat on the wrong node, or to
even the load, the guard remembers

* *which client* it was: it is not moved again within the window;
* *that one of the user's clients is on its way*: the user's next session is taken for it, since the resource may be
  another one by then, and stays where it lands;
* *that it landed wrong*, although it had been sent where it belongs: another proxy sees it otherwise. Then that user's
  clients are not sent home any more until the nodes change, and then only after the window.

So when two proxies disagree, a client is moved once by each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cxfr_proxy.bounded import BoundedDict
from cxfr_proxy.cluster.members import PlacementBasis
from cxfr_proxy.xmpp import jid

REMEMBERED: Final = 100_000
"""Most users, and most clients, that are remembered; the oldest go first."""
ON_ITS_WAY_SECONDS: Final = 600.0
"""Seconds for which a client that was moved is waited for; it may have been sent to an address that leads elsewhere."""


@dataclass(slots=True)
class _User:
    """``last``: when one of the user's clients was moved; ``away``: how many were and have not returned; ``wrong``: the
    basis of placement when one returned to a wrong node."""

    last: float
    away: int = 0
    wrong: PlacementBasis | None = None


class LoopGuard:
    """Remembers moves for ``window`` seconds. Times are one monotonic clock's."""

    def __init__(self, window: float) -> None:
        self.window = window
        self._users: BoundedDict[str, _User] = BoundedDict(REMEMBERED)
        self._clients: BoundedDict[str, float] = BoundedDict(REMEMBERED)

    def about_to_be_asked(self, full_jid: str, now: float) -> None:
        """Remember that this client is to be asked to move."""
        bare = jid.bare(full_jid)
        user = self._users[bare] = self._users.get(bare) or _User(now)
        user.last = now
        user.away += 1
        self._clients[full_jid] = now

    def returned(self, full_jid: str, now: float) -> bool:
        """Note that a client has logged in. Return whether it was moved lately, or is taken for one that was."""
        user = self._users.get(jid.bare(full_jid))
        at = self._clients.get(full_jid)
        lately = at is not None and now - at < self.window
        if user is None or not user.away or now - user.last >= ON_ITS_WAY_SECONDS:
            return lately
        user.away -= 1
        user.wrong = None  # landed_wrong() follows if it sits on a wrong node again
        return True

    def stayed(self, full_jid: str) -> None:
        """Note that a client that was to be moved has not left, and need not."""
        user = self._users.get(jid.bare(full_jid))
        if user is not None and user.away:
            user.away -= 1

    def landed_wrong(self, full_jid: str, basis: PlacementBasis) -> None:
        """Note that a client that returned sits on a wrong node again."""
        user = self._users.get(jid.bare(full_jid))
        if user is not None:
            user.wrong = basis

    def lets(self, full_jid: str, basis: PlacementBasis, now: float) -> bool:
        """Return whether a client that has logged in by itself may be sent home."""
        user = self._users.get(jid.bare(full_jid))
        if user is None or user.wrong is None:
            return True
        # Only once something about the nodes has changed can the two proxies have come to agree.
        return user.wrong != basis and now - user.last >= self.window
