"""Remember of clients what their next sessions need, when the last ones have ended.

A client that was redirected lately is not told an address again. A client that can resume a session is led to the node
that has it. A client that was asked to move to a certain node is led there, and is not moved again for a while.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from cxfr_proxy.bounded import BoundedDict
from cxfr_proxy.session.client_software import ClientSoftware
from cxfr_proxy.session.commands import (
    BoundTo,
    Ended,
    Event,
    Learned,
    NodeChanged,
    NodeRegained,
    Outcome,
    Redirected,
    Resumable,
    Transferred,
)
from cxfr_proxy.session.ladder import Rung, Trigger
from cxfr_proxy.session.session import Session
from cxfr_proxy.spellings import user_key
from cxfr_proxy.transfers.awaited import Awaited
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
from cxfr_proxy.transfers.loop_guard import LoopGuard
from cxfr_proxy.transfers.relayed import Relayed, may_come_back, sent_to, user_of
from cxfr_proxy.transfers.returning_clients import ReturningClients
from cxfr_proxy.xmpp import jid
from cxfr_proxy.xmpp.stream_management import Resumption

REMEMBERED: Final = 100_000
"""Most users that were redirected, and most sessions that can be resumed; the oldest go first. Some 30 MB when full."""
BOUND_LATELY_SECONDS: Final = 5.0
"""Least seconds for which it is known when a session was bound."""
RESUMABLE_SECONDS: Final = 600.0
"""Seconds for which a lost client is led to its node: Prosody keeps a session for 600 seconds, ejabberd for 300."""
AWAITED_SECONDS: Final = 12.0
"""Seconds for which a client that was cut is waited for: the slowest that was measured (QXmpp) came back after 10 s."""
EXPECTED_SECONDS: Final = 90.0
"""Seconds for which a client is led to the node to which it is sent. Asking may take 30 seconds; then nearly all come
within ten. A client that was sent to an address that leads elsewhere does not come, and another from the same address
must not be taken for it for long."""


class ClientMemory:
    """The memory of one process. A redirect counts against the next one for ``redirect_window`` seconds.
    ``client_software`` has the knowledge of client programs, and goes on learning. Times are the relay's clock."""

    def __init__(self, redirect_window: float, client_software: ClientSoftware) -> None:
        self.client_software = client_software
        self.returning_clients = ReturningClients()
        self.guard = LoopGuard(redirect_window)
        self._redirect_window = redirect_window
        self._redirected: BoundedDict[str, float] = BoundedDict(REMEMBERED)
        self._resumable: BoundedDict[str, Resumption] = BoundedDict(REMEMBERED)
        self._awaited = Awaited(REMEMBERED)
        self._returned: dict[int, float] = {}  # by session id: when it was bound, if its client had been moved
        self._bound: OrderedDict[int, float] = OrderedDict()  # by session id: when it was bound, if that was lately
        self._sent: set[int] = set()  # sessions whose clients have left for a certain node

    def set_redirect_window(self, seconds: float) -> None:
        """Have redirects count for that long from now on, past ones included."""
        self._redirect_window = self.guard.window = seconds

    def note(self, relayed: Relayed, event: Event, now: float) -> Sequence[AnyClientNews]:
        """Remember what happened to a session. Return what other processes have to know of it."""
        session, address = relayed.session, relayed.client_address
        match event:
            case BoundTo(full_jid):
                self._note_bound(relayed.id, now)
                if full_jid is not None and self.returned(full_jid, address, session.node, now):
                    self._returned[relayed.id] = now
                    return (Returned(full_jid, address),)
            case NodeChanged() | NodeRegained():
                self._note_bound(relayed.id, now)  # nodes take it for a new one
            case Redirected() if (user := user_of(session)) is not None:
                return self._applied(UserRedirected(user), now)
            case Transferred():
                return self._note_transfer(relayed, event, now)
            case Resumable(stream_management_id, node_id, counters):
                resumption = Resumption(session.full_jid, session.node, node_id, counters)
                self.remember_resumable(stream_management_id, resumption)
                return self.resumable_news(stream_management_id, address)
            case Learned(caps, knows_cxfr):
                return self._applied(SoftwareLearned(caps, knows_cxfr), now)
            case Ended(reason):
                self._keep_counts(session.resumable_id)
                if may_come_back(session, reason) and not self.was_sent(relayed.id):
                    return self._applied(Lost(user_of(session), address, session.node), now)
            case _:
                pass
        return ()

    def forget(self, session_id: int) -> None:
        """Forget a session that has ended."""
        self._returned.pop(session_id, None)
        self._sent.discard(session_id)

    def _note_transfer(self, relayed: Relayed, event: Transferred, now: float) -> Sequence[AnyClientNews]:
        session, order = relayed.session, event.order
        if event.tried[-1] == (Rung.CUT, Outcome.MOVED) and order.trigger is Trigger.DRAIN and order.resumes:
            self._await_resumption(session, now + AWAITED_SECONDS)
        if order.place is None:
            return ()
        if (target := sent_to(event)) is not None:
            self._send(relayed, target)
        elif session.full_jid is not None:
            if event.tried[-1] == (Rung.MIGRATE, Outcome.MOVED):
                self._returned[relayed.id] = now  # it is there, as if it had come back
            return self._applied(Stayed(session.full_jid, relayed.client_address, order.place), now)
        if session.resumable_id is None:
            return ()
        return self.resumable_news(session.resumable_id, relayed.client_address)

    # --- news

    def apply(self, news: AnyClientNews, at: float) -> None:
        """Take over news, from this process or another, of that time."""
        match news:
            case UserRedirected(user):
                self.remember_redirected(user, at)
            case SessionResumable(stream_management_id, resumption):
                self.remember_resumable(stream_management_id, resumption)
            case Lost(user, address, node):
                self.returning_clients.leaves(user, address, node, at=at, seconds=RESUMABLE_SECONDS)
            case Moved(_, full_jid, address, node):
                self.about_to_be_asked(full_jid, address, node, at)
            case Stayed(full_jid, address, node):
                self.stayed(full_jid, address, node)
            case Returned(full_jid, address):
                self.returned(full_jid, address, None, at)
            case SoftwareLearned(caps, knows_cxfr):
                self.client_software.learn(caps, knows_cxfr)
            case LandedWrong():
                pass  # that depends on the nodes: the mover takes it

    def _applied(self, news: AnyClientNews, now: float) -> Sequence[AnyClientNews]:
        self.apply(news, now)
        return (news,)

    def resumable_news(self, stream_management_id: str, address: str) -> Sequence[AnyClientNews]:
        """Return how the session that can be resumed by that id stands; nothing if it is not known."""
        known = self.resumption(stream_management_id)
        if known is None:
            return ()
        return (SessionResumable(stream_management_id, known.without_equal_counts(), address),)

    # --- what is remembered

    def remember_redirected(self, user: str, now: float) -> None:
        """Remember that this user (a bare JID) was sent to another address at that time; the last time counts."""
        key = user_key(user)
        self._redirected[key] = max(now, self._redirected.get(key, now))

    def remember_resumable(self, stream_management_id: str, resumption: Resumption) -> None:
        """Remember a session that its client can resume by that id. A client that was cut and awaited has come for
        it."""
        self._resumable[stream_management_id] = resumption
        self._awaited.has_come(stream_management_id)

    def resumption(self, stream_management_id: str) -> Resumption | None:
        """Return what is known of the session that a client can resume by that id (XEP-0198); ``None``: it was never
        seen here, or was forgotten."""
        return self._resumable.get(stream_management_id)

    def node_of_resumable(self, stream_management_id: str) -> str | None:
        """Return the node that holds that session, or held it last; ``None`` as for :meth:`resumption`."""
        known = self._resumable.get(stream_management_id)
        return known.node if known is not None else None

    def about_to_be_asked(self, full_jid: str, address: str, node: str, at: float) -> None:
        """Remember that the client at that address is to be asked, as of ``at``, to move to that node, where it
        belongs."""
        seconds = max(EXPECTED_SECONDS, self._redirect_window)
        self.returning_clients.leaves(jid.bare(full_jid), address, node, at=at, seconds=seconds)
        self.guard.about_to_be_asked(full_jid, at)

    def stayed(self, full_jid: str, address: str, node: str) -> None:
        """Note that a client that was to move there has not: it has refused and is left alone, or was cut off."""
        self.returning_clients.stays(jid.bare(full_jid), address, node)
        self.guard.stayed(full_jid)

    def returned(self, full_jid: str, address: str, node: str | None, now: float) -> bool:
        """Note that a client has logged in from that address, on that node, or (``None``) in another process.

        Return whether it was moved lately, or is taken for one that was.
        """
        lately = self.guard.returned(full_jid, now)
        if lately:
            self.returning_clients.is_back(jid.bare(full_jid), address, node)
        return lately

    def held_until(self, session_id: int, now: float) -> float | None:
        """Return the time before which its client, which was moved to where it is, must not be moved again; ``None``:
        it may be."""
        at = self._returned.get(session_id)
        return at + self._redirect_window if at is not None and now - at < self._redirect_window else None

    def bound_lately(self, session_id: int) -> float | None:
        """Return when it was bound, resumed, or taken to its node; ``None``: longer ago than a few seconds, or not
        yet."""
        return self._bound.get(session_id)

    def _note_bound(self, session_id: int, now: float) -> None:
        while self._bound and now - next(iter(self._bound.values())) >= BOUND_LATELY_SECONDS:
            self._bound.popitem(last=False)
        self._bound.pop(session_id, None)  # the latest again
        self._bound[session_id] = now

    def was_sent(self, session_id: int) -> bool:
        """Return whether its client has left for a certain node, and is looked for there and nowhere else."""
        return session_id in self._sent

    def has_returned(self, session_id: int) -> bool:
        """Return whether its client was moved before this session began, or is taken for one that was."""
        return session_id in self._returned

    def awaited(self, now: float) -> Counter[str]:
        """Return how many clients were cut from each node that are to resume elsewhere, and may still come."""
        return self._awaited.by_node(now)

    def redirected_lately(self, user: str | None, now: float) -> bool:
        """Return whether that user (a bare JID) was sent to another address within ``redirect_window``."""
        at = self._redirected.get(user_key(user)) if user is not None else None
        return at is not None and now - at < self._redirect_window

    def _send(self, relayed: Relayed, target: str) -> None:
        """Note that the client has left for that node, by way of this proxy perhaps. It is led there also if it wants
        to resume: elsewhere it would only come back to where it was."""
        session = relayed.session
        known = self._resumable.get(session.resumable_id) if session.resumable_id is not None else None
        if session.resumable_id is not None and known is not None:
            self._resumable[session.resumable_id] = replace(known, node=target)
        self._sent.add(relayed.id)

    def _await_resumption(self, session: Session, until: float) -> None:
        if session.resumable_id is not None and session.can_be_resumed:
            self._awaited.cut(session.resumable_id, session.node, until)

    def _keep_counts(self, stream_management_id: str | None) -> None:
        known = self._resumable.get(stream_management_id) if stream_management_id is not None else None
        if stream_management_id is not None and known is not None:
            self._resumable[stream_management_id] = known.without_equal_counts()
