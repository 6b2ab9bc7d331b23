"""Share between the demo's nodes who is online where, and what a session remembers between two streams.

All nodes of a :class:`DemoCluster` live in one process, so routing is a method call. ``shared`` decides the one thing
in which real servers differ: whether an XEP-0198 session of one node can be resumed on another (in ejabberd and
MongooseIM it can, in Prosody and Openfire it can't).
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Protocol

from cxfr_proxy.demo.account import Numbered, SessionRecord
from cxfr_proxy.xmpp.names import StreamCondition

_MESSAGE: Final = re.compile(rb"<(?:\w+:)?message[ >]")
"""However lxml has named the namespace."""
H_MODULUS: Final = 2**32
"""XEP-0198 section 4: ``h`` wraps."""


class SessionStream(Protocol):
    """The stream that carries a session at present."""

    def write(self, data: bytes, numbered: Numbered | None = None) -> None: ...

    def end(self, condition: StreamCondition, text: str | None = None) -> None: ...


@dataclass(slots=True)
class AckCounts:
    """The node's half of XEP-0198: how many stanzas came, and which of those sent are not acknowledged."""

    sm_id: str
    resumable: bool
    received: int = 0
    acknowledged: int = 0
    unacknowledged: deque[tuple[bytes, Numbered | None]] = field(default_factory=deque)

    @property
    def sent(self) -> int:
        return (self.acknowledged + len(self.unacknowledged)) % H_MODULUS

    def acknowledge(self, h: int) -> bool:
        """Take the client's ``h``; false, and nothing changed, if it claims more than was ever sent."""
        newly = (h - self.acknowledged) % H_MODULUS
        if newly > len(self.unacknowledged):
            return False
        for _ in range(newly):
            self.unacknowledged.popleft()
        self.acknowledged = h
        return True


class NodeSession:
    """One bound resource. Without a ``leg`` it hibernates, waiting to be resumed (XEP-0198)."""

    def __init__(self, full_jid: str, node: str, leg: SessionStream, record: SessionRecord) -> None:
        self.full_jid = full_jid
        self.node = node
        self.leg: SessionStream | None = leg
        self.record = record
        self.counters: AckCounts | None = None
        self.pushed = 0
        """Numbers given out to messages the node sends by itself."""
        self.waiting: list[tuple[bytes, Numbered | None]] = []
        """Messages of a former session, which this one gets when it is available, and those that came behind them."""

    @property
    def bare_jid(self) -> str:
        return self.full_jid.partition("/")[0]

    def deliver(self, stanza: bytes, numbered: Numbered | None = None) -> None:
        """Send one stanza down: now or, if the session hibernates, when it is resumed. Messages keep their order."""
        if self.waiting and _MESSAGE.match(stanza):
            self.waiting.append((stanza, numbered))
            return
        if self.counters is not None:
            self.counters.unacknowledged.append((stanza, numbered))
        if self.leg is not None:
            self.leg.write(stanza, numbered)

    def deliver_waiting(self) -> None:
        """Send down what waited: the session is available."""
        waiting, self.waiting = self.waiting, []
        for stanza, numbered in waiting:
            self.deliver(stanza, numbered)

    def push_numbered(self) -> Numbered:
        """Send the next of the node's own numbered messages."""
        self.pushed += 1
        numbered = Numbered(self.record.key, self.pushed)
        domain = self.bare_jid.partition("@")[2]
        self.deliver(
            f"<message from='news.{domain}' to='{self.full_jid}' id='d{self.pushed}' type='chat'>"
            f"<body>{numbered}</body></message>".encode(),
            numbered,
        )
        return numbered


class DemoCluster:
    """Nodes that serve one domain and route to each other."""

    def __init__(self, domain: str = "localhost", *, shared: bool = False) -> None:
        self.domain = domain
        self.shared = shared
        self.sessions: dict[str, NodeSession] = {}
        """By full JID; hibernating ones too."""
        self.records: list[SessionRecord] = []
        """Of every session there ever was, oldest first."""
        self.push_intervals: dict[str, float] = {}
        """Bare JIDs that get numbered messages from whichever node they are on: seconds between two."""
        self.undelivered: dict[str, list[tuple[bytes, Numbered | None]]] = {}
        """By bare JID: messages that a session's client had not acknowledged when it ended. The next one gets them."""
        self._resumable: dict[str, NodeSession] = {}
        self._serial = itertools.count(1)

    def serial(self) -> str:
        """Return a text that is unique within the cluster."""
        return f"{next(self._serial):06x}"

    def find(self, jid: str) -> list[NodeSession]:
        """Return the session of a full JID, or all of a bare one."""
        if "/" in jid:
            return [self.sessions[jid]] if jid in self.sessions else []
        return [session for session in self.sessions.values() if session.bare_jid == jid]

    def on_node(self, node: str) -> list[NodeSession]:
        """Return all sessions on a node, hibernating or not."""
        return [session for session in self.sessions.values() if session.node == node]

    def bind(self, full_jid: str, node: str, leg: SessionStream) -> NodeSession:
        """Return a new session; one that held the same full JID ends with ``conflict`` (RFC 6120 section 7.7.2.2)."""
        former = self.sessions.get(full_jid)
        if former is not None:
            self.drop(former)
            if former.leg is not None:
                former.leg.end(StreamCondition.CONFLICT, "replaced by a new connection")
        record = SessionRecord(full_jid, f"{node}:{self.serial()}", [node])
        session = NodeSession(full_jid, node, leg, record)
        session.waiting = self.undelivered.pop(session.bare_jid, [])
        self.sessions[full_jid] = session
        self.records.append(record)
        return session

    def enable(self, session: NodeSession, *, resumable: bool) -> AckCounts:
        """Start stream management on a session (XEP-0198 section 3)."""
        session.counters = AckCounts(f"sm-{self.serial()}", resumable)
        if resumable:
            self._resumable[session.counters.sm_id] = session
        return session.counters

    def resumable(self, sm_id: str, bare_jid: str, node: str) -> NodeSession | None:
        """Return the session that may be resumed on this node by this user, or ``None``."""
        session = self._resumable.get(sm_id)
        if session is None or session.bare_jid != bare_jid:
            return None
        return session if self.shared or session.node == node else None

    def resume(self, session: NodeSession, node: str, leg: SessionStream) -> None:
        """Give a session another stream, perhaps on another node; a stream it still has ends with ``conflict``."""
        former, session.leg = session.leg, leg
        if former is not None:
            former.end(StreamCondition.CONFLICT, "resumed on a new connection")
        session.node = node
        session.record.nodes.append(node)

    def leg_lost(self, session: NodeSession, leg: SessionStream, *, closed: bool) -> None:
        """Note that a stream has ended; so has its session if it was ``closed`` properly or cannot be resumed."""
        if session.leg is not leg:
            return
        session.leg = None
        if closed or session.counters is None or not session.counters.resumable:
            self.drop(session)

    def drop(self, session: NodeSession, *, keep: bool = True) -> None:
        """Forget a session. Its stream, if it has one, is not touched.

        Messages that its client has not acknowledged are kept for the user's next one, as XEP-0198 section 5 wants it,
        unless ``keep`` says that there is nobody left to do that.
        """
        counters = session.counters
        if self.sessions.get(session.full_jid) is session:
            del self.sessions[session.full_jid]
            if keep:
                unacknowledged = counters.unacknowledged if counters is not None else ()
                kept = [each for each in unacknowledged if _MESSAGE.match(each[0])] + session.waiting
                self.undelivered.setdefault(session.bare_jid, []).extend(kept)
        if counters is not None:
            self._resumable.pop(counters.sm_id, None)
