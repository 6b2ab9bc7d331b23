"""Find the clients that have returned: they left because they were moved, and have logged in again.

A client that has *moved* has left; that says nothing of whether it came back. It has *returned* once its user has
logged in again: by the same client, or else by any of the user's, since the resource may be another one by then. A
client that logs in anew before it leaves has returned the moment it leaves. Another device that logs in by chance is
taken for it: nothing else is known about clients that do not keep their resource.

Only logins by way of this proxy are seen, by whichever of its workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cxfr_proxy.bounded import BoundedDict
from cxfr_proxy.session.commands import Outcome
from cxfr_proxy.session.ladder import Rung
from cxfr_proxy.transfers.statistics import PastTransfer
from cxfr_proxy.xmpp import jid

WITHIN_SECONDS: Final = 600.0
"""Seconds for which a client is waited for that was sent to a certain node; nearly all have returned within ten."""
REMEMBERED: Final = 100_000
"""Most users that are remembered; the oldest go first."""
_TRANSFER_SECONDS: Final = 120.0
"""Seconds for which a login is remembered: longer than a transfer takes, all rungs together, by the default timeouts. A
client that has left just now may have logged in again so long ago."""
_AT_ONCE: Final = 10
"""Most clients of one user that are remembered as moved and not returned."""


@dataclass(frozen=True, slots=True)
class DepartedClient:
    """A client that has left. ``at``: when, by the clock that :class:`Returns` is told."""

    session: int
    full_jid: str
    transfer: PastTransfer
    at: float


@dataclass(frozen=True, slots=True)
class ReturnedClient:
    """A client that has logged in again, ``seconds`` after it had left."""

    gone: DepartedClient
    session: int
    full_jid: str
    seconds: float
    resumed: bool
    """Its session has gone on: the client has resumed it, or the proxy has taken it to another node."""

    @property
    def rung(self) -> Rung:
        """The last rung, by which it left."""
        return self.gone.transfer.tried[-1].rung


@dataclass(frozen=True, slots=True)
class _Login:
    session: int
    full_jid: str
    at: float
    resumed: bool


class Returns:
    """``limit``: users that are remembered. Times are one monotonic clock's."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._gone: BoundedDict[str, tuple[DepartedClient, ...]] = BoundedDict(limit)  # by bare JID, oldest first
        # By bare JID: the last login that was not taken for the return of somebody.
        self._logins: BoundedDict[str, _Login] = BoundedDict(limit)
        self.seconds: BoundedDict[int, float] = BoundedDict(limit)
        """After how many who had that session was back."""

    def note_transfer(
        self, session: int, full_jid: str | None, transfer: PastTransfer, now: float
    ) -> ReturnedClient | None:
        """Note that a transfer is over. Return its client if that has logged in again before it left, else ``None``."""
        self._forget(now)
        if full_jid is None or transfer.tried[-1].outcome is not Outcome.MOVED:
            return None
        gone, user = DepartedClient(session, full_jid, transfer, now), jid.bare(full_jid)
        if transfer.tried[-1].rung is Rung.MIGRATE:
            return self._is_back(gone, _Login(session, full_jid, now, resumed=True), now)  # it was never away
        login = self._logins.get(user)
        if login is not None and login.session != session and login.at >= now - transfer.seconds:
            del self._logins[user]
            return self._is_back(gone, login, now)
        self._gone[user] = (*self._gone.get(user, ())[1 - _AT_ONCE :], gone)
        return None

    def note_login(
        self, session: int, full_jid: str | None, now: float, *, resumed: bool = False
    ) -> ReturnedClient | None:
        """Note that a client has logged in, or has ``resumed`` a session that was there. Return the client it is taken
        for, if for any."""
        self._forget(now)
        if full_jid is None:
            return None
        login, user = _Login(session, full_jid, now, resumed), jid.bare(full_jid)
        left = self._gone.get(user, ())
        gone = next((each for each in left if each.full_jid == full_jid), left[0] if left else None)
        if gone is None:
            self._logins[user] = login
            return None
        rest = tuple(each for each in left if each is not gone)
        if rest:
            self._gone[user] = rest
        else:
            del self._gone[user]
        return self._is_back(gone, login, now)

    def _is_back(self, gone: DepartedClient, login: _Login, now: float) -> ReturnedClient:
        self.seconds[gone.session] = now - gone.at
        return ReturnedClient(gone, login.session, login.full_jid, now - gone.at, login.resumed)

    def _forget(self, now: float) -> None:
        """Forget the clients that are not waited for any more."""
        while self._gone and now - next(iter(self._gone.values()))[-1].at >= WITHIN_SECONDS:
            self._gone.popitem(last=False)
        while self._logins and now - next(iter(self._logins.values())).at >= _TRANSFER_SECONDS:
            self._logins.popitem(last=False)
