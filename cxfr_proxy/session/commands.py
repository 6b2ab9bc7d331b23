"""What a session tells its relay to do (verbs), and what it tells whoever listens (nouns).

A session decides and never acts. The relay carries out each :data:`SessionCommand` in order; a :class:`Report` passes
through it to the registry and the log. Nothing here can block.

They are msgspec structs, which cost a sixth of what frozen dataclasses do to make. Those that can't be part of a
reference cycle, since they hold only numbers, text and the like, are kept from the collector (``gc``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    """Which of a session's two legs. An index as well: legs are kept in pairs."""

    CLIENT = 0
    NODE = 1

    @property
    def other(self) -> Side:
        return Side.NODE if self is Side.CLIENT else Side.CLIENT


class EarlyLogin(Struct, frozen=True):
    """How a session came to its node, where another one could still be chosen, by who logs in.

    ``login`` is what the client had said about itself. ``bind_by``: on the relay's clock, when it has to be bound.
    ``changes_left``: how often another login on this connection may still get another node. ``shown``: what matters of
    the header that the client has got already, and features behind it; ``None``: it has got neither.
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

    The other direction is read on until its end, so that no reset destroys what is still under way. ``silent``: not
    even TLS says that it is over, since the stream has not ended in good order.
    """

    side: Side
    silent: bool = False


class Drop(Struct, frozen=True, gc=False):
    """Close that side now, with what it has not taken; the other side goes on."""

    side: Side


class Close(Struct, frozen=True, gc=False):
    """Close both sockets, once what was sent is out, or ``at_once``. The session's last command."""

    at_once: bool = False


class Upgrade(Struct, frozen=True, gc=False):
    """Give the client's socket back for STARTTLS, dropping what was received and not read; close the node's.

    The session's last command: a new one begins behind the handshake.
    """


class Reroute(Struct, frozen=True):
    """Give the client's socket back for a session with another node: somebody else logs in, who belongs there, or this
    one does not greet.

    The session's last command. ``header`` is the client's, and what it has said behind it to no avail is forgotten; its
    login is what ``up`` holds next. ``early_login`` is ``None`` where the client was shown nothing yet. ``silent`` are
    the names of the nodes that have not greeted it.
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

    What is sent to the node, and comes from it, is the new one's from here on.
    """


class Forgo(Struct, frozen=True, gc=False):
    """Give up what :class:`Dial` has asked for: close the connection, or stop making it, and answer no more."""


class Report(Struct, frozen=True):
    """Tell the registry."""

    event: Event


SessionCommand = Send | EndOutput | Drop | Close | Upgrade | Reroute | Dial | ExchangeNode | Forgo | Report


def joined(commands: Sequence[SessionCommand]) -> Iterator[SessionCommand]:
    """The same, but what goes to one side in a row goes at once: each is a system call, and over TLS a record."""
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
    """The client closed its stream, or was closed as the rung has it."""
    REFUSED = "refused"
    SILENT = "silent"
    """No answer before the deadline."""
    CUT_OFF = "cut-off"
    """Its session ended before it had a chance: the proxy was stopped, or the connection stalled."""
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
    """The session's node is gone and its client is still here: it wants to be transferred."""

    reason: Reason


class NodeChanged(Struct, frozen=True, gc=False):
    """The session is with another node from here on, while its client goes on: its node's leg was exchanged."""

    before: str
    after: str


class ExchangeOver(Struct, frozen=True, gc=False):
    """An exchange of the node's leg has come to its end. ``failure`` ``None``: the session was resumed on that node."""

    node: str
    failure: str | None = None


class LoginFailed(Struct, frozen=True, gc=False):
    """The node has ended a login by a fault of its own, and not of the client's."""

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
    """A transfer is over. ``tried`` are the rungs in order, each with its outcome; by the last one the client has left,
    or stays where it is since the transfer was recalled."""

    order: Order
    tried: tuple[tuple[Rung, Outcome], ...]
    seconds: float


class Redirected(Struct, frozen=True, gc=False):
    """The client goes to another address, because it was told to: by whichever rung, or by a node that is trusted."""


class Learned(Struct, frozen=True, gc=False):
    """Whether clients with these capabilities (``node#ver``) know the connection transfer, as one of them has shown;
    ``None``: it was silent."""

    caps: str
    knows_cxfr: bool | None


class Forged(Struct, frozen=True, gc=False):
    """A connection transfer that did not come from this proxy was kept from the client and answered."""


class Awakened(Struct, frozen=True, gc=False):
    """A client that had said that nobody looks at it (XEP-0352) is in use again."""


class Warned(Struct, frozen=True, gc=False):
    """Something an operator should know about the node."""

    text: str


class Reason(StrEnum):
    """Why a session ended, or its node was lost."""

    CLIENT_CLOSED = "client-closed"
    CLIENT_LOST = "client-lost"
    CLIENT_FAULT = "client-fault"
    NODE_CLOSED = "node-closed"
    NODE_SHUTDOWN = "node-shutdown"
    """Its own stream error said so: system-shutdown or reset."""
    NODE_REDIRECTED = "node-redirected"
    """It sent this client to another host by a stream error; the proxy chooses where to."""
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
    """The connection goes on with another node: somebody else logs in, or this one does not greet."""
    STOPPED = "stopped"


class Ended(Struct, frozen=True, gc=False):
    """The session is over.

    ``late``: stanzas of the client's that came after its stream had been closed, so that they could be neither
    forwarded nor answered (they crossed the closing on the wire; the client saw its stream end without an answer).
    ``undelivered``: bytes from the node that found no client any more.
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
    | ExchangeOver
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
