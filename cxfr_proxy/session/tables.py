"""The machines of a session: every state there is, and every way from one to another.

Nothing here acts. Each part of a session is in one state of its own table at a time and goes on by :func:`follow`,
which raises if the table has no such way: an illegal step is a defect, and is never papered over. The tables:

* :data:`INCOMING` and :data:`OUTGOING`: one direction of one leg;
* :data:`TRANSITIONS`: the session as a whole;
* :data:`NODE_REACTIONS`: what the node did, by where the session is, and what is done about it;
* :data:`FEATURES`, :data:`ASKING`, :data:`QUESTION`, :data:`EXCHANGING` and :data:`STANDING_IN`: the parts that exist
  only for a while.

``docs/session-states.md`` is drawn from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeVar

from cxfr_proxy.session.commands import Side

S = TypeVar("S", bound=Enum)

# The enumerations hash by identity: Enum.__hash__ is a function in Python that hashes the member's name, and a login
# made some seventy calls of it. For the same reason modules on a login's way name the members that they ask for at
# every step once (``_READ``): Python 3.11 takes 200 ns to find ``Incoming.READ``, and 8 ns to find a module's own name.

Table = Mapping[S, frozenset[S]]
"""By state, the states that may follow."""


def follow(table: Table[S], before: S, after: S) -> S:
    """Return ``after``, which must follow ``before`` in that table, or be the same state."""
    if after is not before and after not in table[before]:
        raise AssertionError(f"no way from {before} to {after}")
    return after


# --- a leg, by direction


class Incoming(Enum):
    """The fate of the bytes that a leg brings."""

    __hash__ = object.__hash__

    READ = "read"
    """They are read and acted upon."""
    HELD = "held"
    """They wait: only something that is still to come decides what the next byte means, or where it goes."""
    ENDED = "ended"
    """That side has ended its stream; bytes behind the end are dropped."""
    FAILED = "failed"
    """They can't be followed any further, and are dropped."""
    GONE = "gone"
    """The connection has ended, or nothing is expected of it any more."""


INCOMING: Final[Table[Incoming]] = {
    Incoming.READ: frozenset((Incoming.HELD, Incoming.ENDED, Incoming.FAILED, Incoming.GONE)),
    Incoming.HELD: frozenset((Incoming.READ, Incoming.FAILED, Incoming.GONE)),
    Incoming.ENDED: frozenset((Incoming.GONE,)),
    Incoming.FAILED: frozenset((Incoming.GONE,)),
    Incoming.GONE: frozenset(),
}

READABLE: Final[Mapping[Side, frozenset[Incoming]]] = {
    # The kernel resets a connection that is closed with unread bytes, and a reset destroys what the client has not read
    # yet.
    Side.CLIENT: frozenset((Incoming.READ, Incoming.ENDED, Incoming.FAILED)),
    Side.NODE: frozenset((Incoming.READ,)),
}
"""The states in which the bytes of a side are taken from its socket."""


class Intake(Enum):
    """The bytes that are to be read of a side now. It follows from the states of the parts, and is none itself."""

    __hash__ = object.__hash__

    NOTHING = "nothing"
    """Its bytes wait in its socket."""
    BEHIND = "behind"
    """Bytes that it has brought, and that nobody has looked at yet."""
    BYTES = "bytes"
    """The bytes in its socket."""


class Outgoing(Enum):
    """The state of what is written to a leg."""

    __hash__ = object.__hash__

    NEW = "new"
    """A stream begins, and its header was not written yet: there is no stream that could be ended."""
    OPEN = "open"
    """A stream is under way."""
    ENDED = "ended"
    """The end of the stream was written, and nothing may follow."""
    CLOSED = "closed"
    """The output of the connection has ended."""


OUTGOING: Final[Table[Outgoing]] = {
    Outgoing.NEW: frozenset((Outgoing.OPEN, Outgoing.ENDED, Outgoing.CLOSED)),
    Outgoing.OPEN: frozenset((Outgoing.NEW, Outgoing.ENDED, Outgoing.CLOSED)),
    Outgoing.ENDED: frozenset((Outgoing.CLOSED,)),
    Outgoing.CLOSED: frozenset(),
}

WRITABLE: Final = frozenset((Outgoing.NEW, Outgoing.OPEN))


# --- the session


class State(Enum):
    """The state of a session; operators see the values."""

    __hash__ = object.__hash__

    NEGOTIATING = "negotiating"
    """Client and node agree on authentication and a resource."""
    BOUND = "bound"
    """The stream is in use."""
    TRANSFERRING = "transferring"
    """The client was told to move, or will be as soon as its node's stream is closed."""
    CLOSING = "closing"
    """One of the streams is ended; the session waits for the others to end theirs."""
    CLOSED = "closed"


class Transition(Enum):
    """An event that takes a session from one state to another."""

    __hash__ = object.__hash__

    BINDS = "a resource is bound"
    IS_ORDERED = "an order to move"
    STAYS = "the client stays"
    ENDS = "a stream is ended for good"
    IS_OVER = "both sides are done, or given up"


TRANSITIONS: Final[Mapping[tuple[State, Transition], State]] = {
    (State.NEGOTIATING, Transition.BINDS): State.BOUND,
    (State.BOUND, Transition.IS_ORDERED): State.TRANSFERRING,
    (State.TRANSFERRING, Transition.STAYS): State.BOUND,
    (State.NEGOTIATING, Transition.ENDS): State.CLOSING,
    (State.BOUND, Transition.ENDS): State.CLOSING,
    (State.TRANSFERRING, Transition.ENDS): State.CLOSING,
    (State.CLOSING, Transition.ENDS): State.CLOSING,
    (State.NEGOTIATING, Transition.IS_OVER): State.CLOSED,
    (State.BOUND, Transition.IS_OVER): State.CLOSED,
    (State.TRANSFERRING, Transition.IS_OVER): State.CLOSED,
    (State.CLOSING, Transition.IS_OVER): State.CLOSED,
}


# --- what the node did


class NodeDid(Enum):
    """An act of a node that concerns the whole session, not one stanza."""

    __hash__ = object.__hash__

    GO_AWAY = "a stream error says that it is going away"
    REDIRECT = "a stream error redirects the client, and is trusted"
    FAIL = "any other stream error"
    END_STREAM = "the end of its stream"
    HANG_UP = "the end of its connection"
    BREAK = "bytes that can't be followed"
    DIE = "checks find it dead"
    REFUSE = "anything but the session that was asked for"


class Where(Enum):
    """The place of a session when its node does something: a :class:`State`, with two exceptions."""

    __hash__ = object.__hash__

    NEGOTIATING = "negotiating"
    BOUND = "bound"
    TRANSFERRING = "transferring"
    RESUMING = "resuming on another node"
    """The node's leg was exchanged, and the new node has not said yet that it has the session."""
    ENDING_NODE = "ending the node's stream"
    """In any state: the end of the node's stream is waited for, and the client's farewell comes next."""
    CLOSING = "closing"


class Reaction(Enum):
    """The reaction to an act of the node's."""

    LOSE = "the client is told to move"
    RECOVER = "the session is resumed there, if it can be; else as *the client is told to move*"
    APOLOGISE = "the client is told that there is no server"
    PASS_ERROR = "the client's stream ends by that error"
    REDIRECT = "the client is told where to go"
    CLOSE = "the client's stream ends too"
    SAY_FAREWELL = "the client gets its farewell"
    FINISH = "the session ends once the client is done"


_ENDING: Final = {Where.ENDING_NODE: Reaction.SAY_FAREWELL, Where.CLOSING: Reaction.FINISH}
"""While the session ends, any act of the node's counts as its end: its reason comes too late to matter."""
_LOST: Final = {Where.RESUMING: Reaction.LOSE, **_ENDING}
"""A stream that ends before it has resumed the session never will. A connection that breaks says nothing about that."""
_BY_CASE: Final[Mapping[NodeDid, Mapping[Where, Reaction]]] = {
    NodeDid.GO_AWAY: {
        # Before bind there is nothing to move, and a redirect would lead around the proxy.
        Where.NEGOTIATING: Reaction.PASS_ERROR,
        Where.BOUND: Reaction.LOSE,
        Where.TRANSFERRING: Reaction.LOSE,
        **_ENDING,
    },
    NodeDid.REDIRECT: {
        Where.NEGOTIATING: Reaction.REDIRECT,
        Where.BOUND: Reaction.REDIRECT,
        Where.TRANSFERRING: Reaction.REDIRECT,
        **_ENDING,
    },
    NodeDid.FAIL: {
        Where.NEGOTIATING: Reaction.PASS_ERROR,
        Where.BOUND: Reaction.PASS_ERROR,
        Where.TRANSFERRING: Reaction.PASS_ERROR,
        **_ENDING,
    },
    NodeDid.END_STREAM: {
        Where.NEGOTIATING: Reaction.CLOSE,
        Where.BOUND: Reaction.CLOSE,
        # The client is being asked: its session ended before it had answered.
        Where.TRANSFERRING: Reaction.LOSE,
        **_LOST,
    },
    NodeDid.HANG_UP: {
        Where.NEGOTIATING: Reaction.APOLOGISE,
        Where.BOUND: Reaction.RECOVER,
        Where.TRANSFERRING: Reaction.RECOVER,
        Where.RESUMING: Reaction.RECOVER,
        **_ENDING,
    },
    NodeDid.BREAK: {
        Where.NEGOTIATING: Reaction.APOLOGISE,
        Where.BOUND: Reaction.LOSE,
        Where.TRANSFERRING: Reaction.LOSE,
        **_LOST,
    },
    # A dead node is reported together with an order to move, and a session that is ending takes no orders.
    NodeDid.DIE: {Where.NEGOTIATING: Reaction.APOLOGISE, Where.TRANSFERRING: Reaction.LOSE},
    NodeDid.REFUSE: {Where.RESUMING: Reaction.LOSE},
}
NODE_REACTIONS: Final[Mapping[tuple[NodeDid, Where], Reaction]] = {
    (did, where): reaction for did, row in _BY_CASE.items() for where, reaction in row.items()
}


# --- what exists only for a while


class Features(Enum):
    """The features that a client sees while it logs in."""

    __hash__ = object.__hash__

    PROXYS = "the proxy's"
    """It has seen the proxy's; those of the node are not for the client."""
    DUE = "none yet"
    """It waits for the node's."""
    SEEN = "seen"


FEATURES: Final[Table[Features]] = {
    Features.PROXYS: frozenset((Features.SEEN, Features.DUE)),
    Features.DUE: frozenset((Features.SEEN,)),
    Features.SEEN: frozenset((Features.DUE,)),  # the stream has begun anew
}


class Asking(Enum):
    """The progress of one rung."""

    __hash__ = object.__hash__

    DUE = "due"
    """The request waits for a boundary behind an element that is cut through."""
    ASKED = "asked"
    """The client has the request and has not answered."""
    ACCEPTED = "accepted"
    """It has answered that it will go."""
    TOLD = "told"
    """The rung is one that waits for no answer."""


ASKING: Final[Table[Asking]] = {
    Asking.TOLD: frozenset((Asking.DUE,)),
    Asking.DUE: frozenset((Asking.ASKED, Asking.TOLD)),
    Asking.ASKED: frozenset((Asking.ACCEPTED, Asking.TOLD)),
    Asking.ACCEPTED: frozenset((Asking.TOLD,)),
}


class Question(Enum):
    """The last question, before the node's stream is ended."""

    __hash__ = object.__hash__

    ASKED = "asked"
    ANSWERED = "answered"


QUESTION: Final[Table[Question]] = {
    Question.ASKED: frozenset((Question.ANSWERED,)),
    Question.ANSWERED: frozenset(),
}


class Exchanging(Enum):
    """The progress of the exchange of a node's leg."""

    __hash__ = object.__hash__

    DIALLING = "dialling"
    """The relay connects and logs in, and the client may have to say what it has got; everything goes on as before."""
    SETTLING = "settling"
    """The client is held, and the old node is asked how far it is."""
    BROKEN = "broken"
    """The connection to the node is gone. The client is held, and the relay connects and logs in."""
    RESUMING = "resuming"
    """The new leg is in its place, and the new node is asked for the session."""
    REPLAYING = "replaying"
    """The new node sends again what the client has not acknowledged; what the client has got of it is dropped."""


EXCHANGING: Final[Table[Exchanging]] = {
    Exchanging.DIALLING: frozenset((Exchanging.SETTLING, Exchanging.BROKEN)),
    Exchanging.SETTLING: frozenset((Exchanging.RESUMING, Exchanging.BROKEN)),
    Exchanging.BROKEN: frozenset((Exchanging.RESUMING,)),
    Exchanging.RESUMING: frozenset((Exchanging.REPLAYING, Exchanging.BROKEN)),
    Exchanging.REPLAYING: frozenset(),
}


class StandingIn(Enum):
    """The progress of XEP-0198 that the proxy speaks with the node in the place of the client."""

    __hash__ = object.__hash__

    WAITING = "waiting"
    """The client may still ask for it itself."""
    ASKED = "asked"
    """The node is asked, and has not answered."""
    ON = "on"
    """The proxy counts, and acknowledges what it has passed on."""


STANDING_IN: Final[Table[StandingIn]] = {
    StandingIn.WAITING: frozenset((StandingIn.ASKED,)),
    StandingIn.ASKED: frozenset((StandingIn.ON,)),
    StandingIn.ON: frozenset(),
}
