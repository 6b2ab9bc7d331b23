"""A transfer while it runs: the order, the rung that is being tried, and what came of the others."""

from __future__ import annotations

from cxfr_proxy.session.commands import Outcome, Transferred
from cxfr_proxy.session.ladder import Order, Rung
from cxfr_proxy.session.tables import ASKING, Asking, follow


class TransferAttempt:
    """A transfer that runs. ``started`` is on the relay's clock, in seconds. ``source`` is the name of the node that
    the session was with then. ``iq_id`` is the request's; empty before there was one.

    ``recalled`` is independent of how far the rung is: the order was taken back, and a client that does not go when it
    is asked stays where it is. ``held_seconds`` and ``not_taken`` are those of :class:`~.commands.Transferred`.
    """

    __slots__ = (
        "_iq",
        "asking",
        "held_seconds",
        "iq_id",
        "not_taken",
        "order",
        "recalled",
        "rung",
        "source",
        "started",
        "tried",
    )

    def __init__(self, order: Order, source: str, started: float) -> None:
        self.order = order
        self.source = source
        self.started = started
        self.rung = Rung.RESET
        self.asking = Asking.TOLD
        self.iq_id = ""
        self.recalled = False
        self.held_seconds: float | None = None
        self.not_taken: str | None = None
        self.tried: list[tuple[Rung, Outcome]] = []
        self._iq = b""

    @property
    def is_question(self) -> bool:
        """The client is asked and could stay; by any other rung its stream ends."""
        return self.rung is Rung.CXFR

    @property
    def is_migration(self) -> bool:
        """The client is told nothing: the proxy takes its session to the other node."""
        return self.rung is Rung.MIGRATE

    @property
    def unanswered(self) -> bool:
        """The client has the request and has not answered it."""
        return self.is_question and self.asking is Asking.ASKED

    @property
    def accepted(self) -> bool:
        """The client has answered that it will go."""
        return self.is_question and self.asking is Asking.ACCEPTED

    @property
    def due(self) -> bool:
        """The request waits for a boundary."""
        return self.asking is Asking.DUE

    def climb(self, rung: Rung) -> None:
        """Try that rung."""
        self.rung = rung
        self.asking = follow(ASKING, self.asking, Asking.TOLD)

    def prepare(self, iq_id: str, iq: bytes) -> None:
        """Have the request sent at the next boundary."""
        self.iq_id, self._iq = iq_id, iq
        self.asking = follow(ASKING, self.asking, Asking.DUE)

    def take_iq(self) -> bytes:
        """Return the request, which goes to the client now."""
        iq, self._iq = self._iq, b""
        self.asking = follow(ASKING, self.asking, Asking.ASKED)
        return iq

    def accept(self) -> None:
        """Note the client's answer that it will go."""
        self.asking = follow(ASKING, self.asking, Asking.ACCEPTED)

    def hurry(self, order: Order) -> None:
        """Go on by another order, which leaves no time to ask."""
        self.order, self.recalled = order, False

    def recall(self) -> None:
        """Take the order back: a client that refuses may stay."""
        self.recalled = True

    def must_go(self) -> None:
        """Have the client go after all: its node is gone."""
        self.recalled = False

    def note(self, outcome: Outcome) -> None:
        """Note the outcome of the rung that is being tried."""
        self.tried.append((self.rung, outcome))

    def note_held(self, seconds: float) -> None:
        """Note for how long the client was not read while its session was taken elsewhere."""
        self.held_seconds = seconds

    def note_not_taken(self, why: str) -> None:
        """Note why the session could not be taken elsewhere."""
        self.not_taken = why

    def end(self, outcome: Outcome, now: float) -> Transferred:
        """Return the report that closes it."""
        self.note(outcome)
        seconds = now - self.started
        return Transferred(self.order, tuple(self.tried), seconds, self.source, self.held_seconds, self.not_taken)
