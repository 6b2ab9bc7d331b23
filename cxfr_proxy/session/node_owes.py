"""Whose turn it is in a login, and so whose fault it is where it ends without one.

A node that greets and never lets anybody in passes every check. Only its clients' logins show it, and they end for
reasons of their clients' as well: nobody must be able to take a node out by making up things. So an end counts against
the node only where the node owes something that every server owes to everybody, and where the client has done nothing
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

(1) It may have had enough of who tries one password after the other. (2) When it has owed it for
:data:`OWED_SECONDS`, and the client, which has waited as long, leaves, or its time for a login is over. *Its own fault*
are stream errors that say so (:mod:`.node_stream`). A wrong password, an unknown user or domain, a login too slow on
the client's side never count. Nor does anything once the client has sent what is no part of a login, or has spoken out
of its turn: nobody knows what a node makes of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import Final

OWED_SECONDS: Final = 10.0
"""A node that takes longer keeps people from logging in whether it answers in the end or not: their programs give up
after ten to thirty seconds."""


class Owes(Enum):
    """What a conforming node has to say next."""

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


_COUNTS: Final[Mapping[End, frozenset[Owes]]] = {
    End.HANG_UP: frozenset((Owes.GREETING, Owes.RESOURCE)),
    End.STREAM_END: frozenset((Owes.GREETING, Owes.RESOURCE)),
    End.GARBAGE: frozenset((Owes.GREETING, Owes.ANSWER, Owes.RESOURCE)),
    End.SILENCE: frozenset((Owes.GREETING, Owes.ANSWER, Owes.RESOURCE)),
}


class Turn:
    """Follows one login. ``now`` is the session's clock."""

    __slots__ = ("_asked", "_challenged", "_since", "odd", "owes")

    def __init__(self) -> None:
        self.owes = Owes.NOTHING
        self.odd = False
        """The client has done something else than log in."""
        self._since = math.inf
        self._asked = False  # a login was sent before the greeting
        self._challenged = False

    def _owe(self, what: Owes, since: float) -> None:
        self.owes, self._since, self._challenged = what, since, False

    # --- the client

    def opened(self, now: float) -> None:
        """It has sent a header."""
        self._owe(Owes.GREETING, now)

    def asked(self, now: float, *, proved: bool) -> None:
        """It has sent a login, or being ``proved`` asks for a resource."""
        if self.owes is Owes.GREETING:
            self.odd |= self._asked
            self._asked = True
        elif self.owes is Owes.NOTHING:
            self._owe(Owes.RESOURCE if proved else Owes.ANSWER, now)
        else:
            self.odd = True

    def responded(self, now: float) -> None:
        """It has answered a challenge."""
        if self._challenged:
            self._owe(Owes.ANSWER, now)
        else:
            self.odd = True

    def note_odd(self) -> None:
        """It has sent what is no part of a login."""
        self.odd = True

    @property
    def spoken(self) -> bool:
        """The client has sent more than its header before the greeting."""
        return self._asked or self.odd

    # --- the node

    def greeted(self, now: float) -> None:
        """Here are its features."""
        asked, self._asked = self._asked, False
        self._owe(Owes.ANSWER if asked else Owes.NOTHING, now)

    def answered(self, *, challenges: bool = False) -> None:
        """It has; the rest is the client's."""
        self._owe(Owes.NOTHING, math.inf)
        self._challenged = challenges

    def accepted(self, now: float, *, restarts: bool) -> None:
        """The password is right: a greeting follows, with ``restarts`` behind another header of the client's."""
        self._owe(Owes.GREETING, math.inf if restarts else now)

    # --- the end

    def is_its_fault(self, end: End, now: float) -> bool:
        """Whether a login that ends so counts against the node."""
        in_time = end is End.SILENCE and now - self._since < OWED_SECONDS
        return self.owes in _COUNTS[end] and not self.odd and not in_time
