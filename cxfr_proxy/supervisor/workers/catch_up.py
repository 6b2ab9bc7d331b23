"""Keep what workers tell each other about users and software, for those that start later.

A worker hears as it happens which users the others redirected, what can be resumed by which id, which lost clients may
come back for their sessions, and what was learned of software. A worker that starts later gets what still matters, in
pieces: all of it may be more than one line can hold.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from cxfr_proxy.bounded import BoundedDict
from cxfr_proxy.ipc.messages import EarlierNews, Remembered
from cxfr_proxy.session.client_software import ClientSoftware
from cxfr_proxy.transfers.client_news import (
    AnyClientNews,
    LandedWrong,
    Lost,
    Moved,
    Returned,
    SessionResumable,
    SoftwareLearned,
    Stayed,
    UserRedirected,
)
from cxfr_proxy.transfers.loop_guard import ON_ITS_WAY_SECONDS
from cxfr_proxy.transfers.memory import REMEMBERED, RESUMABLE_SECONDS
from cxfr_proxy.xmpp import jid

_MOVED_AT_ONCE: Final = 9
"""Most entries of one user that are kept beside the newest one."""
PIECE: Final = 100
"""Entries per message. A JID has at most 3,071 bytes, and counts that differ some 14 for each stanza that made them
so and is not acknowledged: a line stays far below its limit."""


class CatchUp:
    """The memory of the supervisor. ``redirect_window`` is the registry's, in seconds; ``limit`` holds for each kind of
    entries about users, and the oldest go first."""

    def __init__(self, redirect_window: float, limit: int = REMEMBERED) -> None:
        self.redirect_window = redirect_window
        self._redirected: BoundedDict[str, float] = BoundedDict(limit)
        self._resumable: BoundedDict[str, SessionResumable] = BoundedDict(limit)
        self._lost: deque[tuple[Lost, float]] = deque(maxlen=limit)
        # By bare JID: clients that have not come back.
        self._moved: BoundedDict[str, list[tuple[Moved, float]]] = BoundedDict(limit)
        self._client_software = ClientSoftware()

    def note(self, news: AnyClientNews, now: float) -> None:
        """Note a worker's report, or what it would have reported."""
        match news:
            case UserRedirected(user):
                self._redirected[user] = now
                self._forget(now)
            case SessionResumable(stream_management_id):
                self._resumable[stream_management_id] = news
            case Lost():
                self._lost.append((news, now))
                self._forget(now)
            case Moved(full_jid=full_jid):
                user = jid.bare(full_jid)
                self._moved[user] = [*self._moved.get(user, ())[-_MOVED_AT_ONCE:], (news, now)]
                self._forget(now)
            case Stayed(full_jid) | Returned(full_jid):
                self._no_more_moved(full_jid)
            case SoftwareLearned(caps, knows_cxfr):
                self._client_software.learn(caps, knows_cxfr)
            case LandedWrong():
                pass  # a worker that starts later finds it out by itself

    def _no_more_moved(self, full_jid: str) -> None:
        """Note it as :class:`~cxfr_proxy.transfers.loop_guard.LoopGuard` sees it: the resource may be another one by
        now."""
        user = jid.bare(full_jid)
        moved = self._moved.get(user, [])
        # Else the oldest: a client may come back by another resource.
        own = next((each for each in moved if each[0].full_jid == full_jid), moved[0] if moved else None)
        if own is not None:
            moved.remove(own)
            if not moved:
                del self._moved[user]

    def software_known(self) -> Mapping[str, bool]:
        """Return by capabilities whether clients know the request, as far as it was learned; the latest at the end."""
        return self._client_software.learned()

    def software_was_known(self, known: Mapping[str, bool]) -> None:
        """Take over what was learned at an earlier time."""
        for caps, knows_cxfr in known.items():
            self._client_software.learn(caps, knows_cxfr)

    def note_killed(self, lost: Iterable[Lost], now: float) -> list[Remembered]:
        """Return what the other workers have to be told, since this one was killed before it could report it."""
        news = list(lost)
        for each in news:
            self.note(each, now)
        return _pieces([EarlierNews(0.0, each) for each in news])

    def pieces(self, now: float) -> list[Remembered]:
        """Return everything that still matters at this time, oldest first."""
        self._forget(now)
        learned = [SoftwareLearned(caps, knows_cxfr) for caps, knows_cxfr in self._client_software.learned().items()]
        return [
            *_pieces([EarlierNews(now - at, UserRedirected(user)) for user, at in self._redirected.items()]),
            *_pieces([EarlierNews(0.0, each) for each in self._resumable.values()]),
            *_pieces([EarlierNews(now - at, each) for each, at in self._lost]),
            *_pieces([EarlierNews(now - at, each) for own in self._moved.values() for each, at in own]),
            *_pieces([EarlierNews(0.0, each) for each in learned]),
        ]

    def _forget(self, now: float) -> None:
        """Forget entries that are too old to matter."""
        while self._lost and now - self._lost[0][1] >= RESUMABLE_SECONDS:
            self._lost.popleft()
        while self._moved and now - next(iter(self._moved.values()))[-1][1] >= ON_ITS_WAY_SECONDS:
            self._moved.popitem(last=False)
        while self._redirected and now - next(iter(self._redirected.values())) >= self.redirect_window:
            self._redirected.popitem(last=False)


def _pieces(news: Sequence[EarlierNews]) -> list[Remembered]:
    return [Remembered(tuple(news[at : at + PIECE])) for at in range(0, len(news), PIECE)]
