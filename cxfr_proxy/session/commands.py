"""The commands that a session gives its relay (verbs), and the events that it reports (nouns).

A session decides and never acts. The relay carries out each :data:`SessionCommand` in order; a :class:`Report` passes
through it to the registry and the log. Nothing here can block.

They are msgspec structs, which take a sixth of the time of frozen dataclasses to make. Those that can't be part of a
reference cycle, since they hold only numbers, text and the like, are kept from the collector (``gc``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum, StrEnum
from itertools import groupby

from msgspec import Struct

from cxfr_proxy.session.ladder import Order, Rung
from cxfr_proxy.xmpp.framing.lane import Lane
from cxfr_proxy.xmpp.opening.attempt import FailedLogin
from cxfr_proxy.xmpp.opening.header import StreamHeader
from cxfr_proxy.xmpp.opening.login import Login
from cxfr_proxy.xmpp.stream_management import Counters


class Side(IntEnum):
    """One of a session's two legs. It is an index as well: legs are kept in pairs."""

    CLIENT = 0
    NODE = 1

    @property
    def other(self) -> Side:
        return Side.NODE if self is Side.CLIENT else Side.CLIENT


class EarlyLogin(Struct, frozen=True):
    """The login for which a session got its node, while another login could still lead to another node.

    ``login`` is what the client had said about itself. ``bind_by``: when the stream has to be bound, on the relay's
    clock. ``changes_left``: how often another login on this connection may still get another node. ``shown``: what
    matters of the header that the client has got already, and features behind it; ``None``: it has got neither.
    """

    login: Login
    bind_by: float
    changes_left: int
    shown: StreamHeader | None = None


# --- commands


class Send(Struct, frozen=True, gc=False):
    """Write ``data`` to that side, behind all that was sent before."""

    side: Side
    data: bytes


class EndOutput(Struct, frozen=True, gc=False):
    """Half-close that side once all that was sent is out, its TLS first.

    The other direction is read on until its end, so that no reset destroys what is still on its way. ``silent``:
    without a TLS alert either, since the stream has not ended in good order.
    """

    side: Side
    silent: bool = False


class Drop(Struct, frozen=True, gc=False):
    """Close that side now, with what it has not taken; the other side goes on."""

    side: Side


class Redirect(Struct, frozen=True, gc=False):
    """Let the end of the client's stream, which is sent next, name that URL (RFC 7395 section 3.6.1). For clients on
    WebSocket."""

    url: str


class Close(Struct, frozen=True, gc=False):
    """Close both sockets, once what was sent is out, or ``at_once``. The session's last command."""

    at_once: bool = False


class Upgrade(Struct, frozen=True, gc=False):
    """Give the client's socket back for STARTTLS, and drop what was received and not read; close the node's.

    It is the session's last command: another session begins behind the handshake.
    """


class Reroute(Struct, frozen=True):
    """Give the client's socket back for a session with another node: another user logs in, who belongs there, or this
    node does not greet.

    It is the session's last command. ``header`` is the client's; what the client has said behind it so far has had no
    effect and is forgotten, and its login comes next in ``up``. ``early_login`` is ``None`` if the client was shown
    nothing yet. ``silent`` are the names of the nodes that have not greeted it.
    """

    header: StreamHeader
    up: Lane
    early_login: EarlyLogin | None
    silent: tuple[str, ...] = ()


class Dial(Struct, frozen=True, gc=False):
    """Connect to that node and log in there as that user (a bare JID), whose session it will resume.

    ``header`` opens the streams: the client's elements are to be read behind it. The answer is
    :meth:`.session.Session.dialled`. Until then, and until :class:`ExchangeNode`, the session goes on with the node
    that it has.
    """

    node: str
    user: str
    header: StreamHeader


class ExchangeNode(Struct, frozen=True, gc=False):
    """Put the connection that was dialled in the place of the node's, which is closed at once.

    All bytes to and from the node are the new connection's from here on.
    """


class Forgo(Struct, frozen=True, gc=False):
    """Give up what :class:`Dial` has asked for: close the connection, or stop making it, and do not answer."""


class Report(Struct, frozen=True):
    """Pass the event on to those that listen."""

    event: Event


SessionCommand = Send | EndOutput | Drop | Redirect | Close | Upgrade | Reroute | Dial | ExchangeNode | Forgo | Report


def joined(commands: Sequence[SessionCommand]) -> Iterable[SessionCommand]:
    """Return the same commands, with data that goes to one side in a row joined: each write is a system call, and over
    TLS a record."""
    if len(commands) < 2:
        return commands
    if len(commands) > 2:
        return _joined(commands)
    # Each login has such a pair, a node's header and its features.
    first, second = commands
    if type(first) is Send and type(second) is Send and first.side is second.side:
        return (Send(first.side, first.data + second.data),)
    return commands


def _joined(commands: Sequence[SessionCommand]) -> Iterator[SessionCommand]:
    for side, run in groupby(commands, _sent_to):
        if side is None:
            yield from run
        else:
            yield Send(side, b"".join(each.data for each in run if isinstance(each, Send)))


def _sent_to(command: SessionCommand) -> Side | None:
    return command.side if isinstance(command, Send) else None


# --- events


class Outcome(StrEnum):
    """How asking a client by one rung ended."""

    MOVED = "moved"
    """The client closed its stream, or the rung closed it."""
    REFUSED = "refused"
    SILENT = "silent"
    """No answer before the deadline."""
    CUT_OFF = "cut-off"
    """Its session ended before it could answer: the proxy was stopped, or the connection stalled."""
    STAYED = "stayed"
    """It answered ``result`` and did not leave before the deadline."""


class BoundTo(Struct, frozen=True, gc=False):
    """The stream has a resource; ``full_jid`` is ``None`` after a resumption this proxy had not seen begin.
    ``resumed``: the session is one that was there before (XEP-0198)."""

    full_jid: str | None
    resumed: bool = False


class Shifted(Struct, frozen=True):
    """The counts of a stream that can be resumed (:class:`Resumable`) have come to differ, or differ more."""

    counters: Counters


class Resumable(Struct, frozen=True):
    """XEP-0198 is on and the client can resume the session by this id.

    ``node_id`` is the node's id for it. ``counters`` stay the session's own, and are kept up.
    """

    stream_management_id: str
    node_id: str
    counters: Counters | None = None


class NodeLost(Struct, frozen=True, gc=False):
    """The session's node is gone and its client is still here: it has to be moved."""

    reason: Reason


class NodeChanged(Struct, frozen=True, gc=False):
    """The session is with another node from here on, while its client goes on: the node's leg was exchanged."""

    before: str
    after: str


class NodeRegained(Struct, frozen=True, gc=False):
    """The connection to the session's node had broken, and the session was resumed there so many ``seconds`` later; its
    client has noticed nothing."""

    seconds: float


class MigrationFailed(Struct, frozen=True, gc=False):
    """The session could not be taken to another node, or taken up again. If it has not left its own, nobody has
    noticed. ``node`` is the one that has not done its part, of the two; ``None``: the client has not, which says
    nothing of the nodes."""

    node: str | None
    why: str


class LoginFailed(Struct, frozen=True, gc=False):
    """The node has ended a login by its own fault, and not the client's."""

    reason: str


class Asked(Struct, frozen=True):
    """A client was asked to move, by that rung; ``first``: the first one of its transfer."""

    rung: Rung
    order: Order
    first: bool


class Answered(Struct, frozen=True):
    """Asking by that rung ended with the client still here; the next rung follows."""

    rung: Rung
    order: Order
    outcome: Outcome


class Transferred(Struct, frozen=True):
    """A transfer off ``source``, a node, is over. ``tried`` are the rungs in order, each with its outcome. By the last
    one the client has left, or its session has (:attr:`~.ladder.Rung.MIGRATE`), or it stays where it is since the order
    was taken back. ``held_seconds``: for how long the client was not read while its session was taken elsewhere;
    ``None``: it was not taken. ``not_taken``: why it was not, where that was tried."""

    order: Order
    tried: tuple[tuple[Rung, Outcome], ...]
    seconds: float
    source: str
    held_seconds: float | None = None
    not_taken: str | None = None


class Redirected(Struct, frozen=True, gc=False):
    """The client goes to another address because it was told to, by any rung or by a node that is trusted."""


class Learned(Struct, frozen=True, gc=False):
    """A client has shown whether it knows the connection transfer; so do others with these capabilities (``node#ver``).
    ``None``: it was silent."""

    caps: str
    knows_cxfr: bool | None


class Forged(Struct, frozen=True, gc=False):
    """A connection transfer that did not come from this proxy was kept from the client and answered."""


class Awakened(Struct, frozen=True, gc=False):
    """A client that had said that it is inactive (XEP-0352) is active again."""


class Warned(Struct, frozen=True, gc=False):
    """A warning about the node for its operator."""

    text: str


class Reason(StrEnum):
    """The reason why a session ended, or lost its node."""

    CLIENT_CLOSED = "client-closed"
    CLIENT_LOST = "client-lost"
    CLIENT_FAULT = "client-fault"
    NODE_CLOSED = "node-closed"
    NODE_SHUTDOWN = "node-shutdown"
    """The node's own stream error said so: system-shutdown or reset."""
    NODE_REDIRECTED = "node-redirected"
    """The node sent this client to another host by a stream error; the proxy chooses the host."""
    NODE_LOST = "node-lost"
    """Its connection ended without a word."""
    NODE_DOWN = "node-down"
    """Checks had found it dead."""
    NODE_FAULT = "node-fault"
    TRANSFERRED = "transferred"
    TIMED_OUT = "timed-out"
    STALLED = "stalled"
    STARTTLS = "starttls"
    REROUTED = "rerouted"
    """The connection goes on with another node: another user logs in, or this node does not greet."""
    STOPPED = "stopped"
    KICKED = "kicked"
    """An operator has ended it."""


class Ended(Struct, frozen=True, gc=False):
    """The session is over.

    ``late``: stanzas that came after the client's stream had been closed, so that they could be neither forwarded nor
    answered (they crossed the closing on the wire; the client saw its stream end without an answer). ``undelivered``:
    bytes from the node that found no client any more.
    """

    reason: Reason
    condition: str | None
    late: int
    undelivered: int


Event = (
    BoundTo
    | FailedLogin
    | Resumable
    | Shifted
    | NodeLost
    | NodeChanged
    | NodeRegained
    | MigrationFailed
    | LoginFailed
    | Asked
    | Answered
    | Transferred
    | Redirected
    | Learned
    | Forged
    | Awakened
    | Warned
    | Ended
)
