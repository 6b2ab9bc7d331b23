"""Follow a login, to know who has to speak next and so who is to blame if it comes to nothing.

A node that greets and never lets anybody in passes every check. Only its clients' logins show it, and logins fail for
reasons of the clients' as well: nobody must be able to take a node out by failing on purpose. So a failed login counts
against the node only if the node owes something that every server owes to everybody, and if the client has done nothing
but log in:

=============== ===================== ================ ================= =======================
the login ends  the node owes         its answer       its answer to a   nothing: it is the
by              header and features   to a login       proved client's   client's turn
=============== ===================== ================ ================= =======================
hanging up      counts                (1)              counts
``</stream>``   counts                (1)              counts
garbage, HTML   counts                counts           counts
no answer       counts (2)            counts (2)       counts (2)
its own fault   counts                counts           counts            counts
=============== ===================== ================ ================= =======================

(1) It may have had enough of a client that tries one password after the other. (2) If it has owed the answer for
:data:`OWED_SECONDS`, and the client, which has waited as long, leaves, or its time for a login is over. *Its own fault*
are stream errors that say so (:mod:`.node_end`). A wrong password, an unknown user or domain, and a login that is
too slow on the client's side never count. Nothing counts either once the client has sent something that is no part of a
login, or has spoken out of turn: nobody knows what a node makes of that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import Final

OWED_SECONDS: Final = 10.0
"""Seconds that a node may take. One that takes longer keeps people from logging in whether it answers or not: their
programs give up after ten to thirty seconds."""


class Owes(Enum):
    """The next thing that a conforming node has to say."""

    __hash__ = object.__hash__  # as in :mod:`.tables`

    NOTHING = "nothing"
    GREETING = "greeting"
    """Header and features (RFC 6120 sections 4.2 and 4.3.2)."""
    ANSWER = "answer"
    """A challenge, success or failure."""
    RESOURCE = "resource"
    """The answer to a request for a resource, by a client whose password was found right."""


class End(Enum):
    """How a node ends a login; the text is the operator's."""

    __hash__ = object.__hash__

    HANG_UP = "it closes the connection"
    STREAM_END = "it ends the stream"
    GARBAGE = "what it says can't be read"
    SILENCE = "it does not answer"


_NOTHING: Final = Owes.NOTHING
_GREETING: Final = Owes.GREETING
_ANSWER: Final = Owes.ANSWER
_RESOURCE: Final = Owes.RESOURCE

_COUNTS: Final[Mapping[End, frozenset[Owes]]] = {
    End.HANG_UP: frozenset((Owes.GREETING, Owes.RESOURCE)),
    End.STREAM_END: frozenset((Owes.GREETING, Owes.RESOURCE)),
    End.GARBAGE: frozenset((Owes.GREETING, Owes.ANSWER, Owes.RESOURCE)),
    End.SILENCE: frozenset((Owes.GREETING, Owes.ANSWER, Owes.RESOURCE)),
}


class Turn:
    """One login, followed. ``now`` is the session's clock."""

    __slots__ = ("_asked", "_challenged", "_since", "odd", "owes")

    def __init__(self) -> None:
        self.owes = _NOTHING
        self.odd = False
        """The client has done something other than log in."""
        self._since = math.inf
        self._asked = False  # a login was sent before the greeting
        self._challenged = False  # nothing is owed, for the client has to respond

    def _owe(self, what: Owes, since: float) -> None:
        self.owes, self._since, self._challenged = what, since, False

    # --- the client

    def opened(self, now: float) -> None:
        """Note that the client has sent a header."""
        self._owe(_GREETING, now)

    def asked(self, now: float, *, proved: bool) -> None:
        """Note that the client has sent a login or, once ``proved``, asks for a resource."""
        if self.owes is _GREETING:
            self.odd |= self._asked
            self._asked = True
        elif self.owes is _NOTHING:
            self._owe(_RESOURCE if proved else _ANSWER, now)
        else:
            self.odd = True

    def responded(self, now: float) -> None:
        """Note that the client has answered a challenge."""
        if self._challenged:
            self._owe(_ANSWER, now)
        else:
            self.odd = True

    def note_odd(self) -> None:
        """Note that the client has sent something that is no part of a login."""
        self.odd = True

    @property
    def spoken(self) -> bool:
        """The client has sent more than its header before the greeting."""
        return self._asked or self.odd

    # --- the node

    def greeted(self, now: float) -> None:
        """Note the node's features. A login that was sent before them has to be answered now."""
        asked, self._asked = self._asked, False
        self._owe(_ANSWER if asked else _NOTHING, now)

    def answered(self, *, challenges: bool = False) -> None:
        """Note the node's answer: the client has to speak next."""
        self._owe(_NOTHING, math.inf)
        self._challenged = challenges

    def accepted(self, now: float, *, restarts: bool) -> None:
        """Note that the password is right: features follow, with ``restarts`` behind another header of the client's."""
        self._owe(_GREETING, math.inf if restarts else now)

    # --- the end

    def is_its_fault(self, end: End, now: float) -> bool:
        """Return whether a login that ends so counts against the node."""
        in_time = end is End.SILENCE and now - self._since < OWED_SECONDS
        return self.owes in _COUNTS[end] and not self.odd and not in_time
