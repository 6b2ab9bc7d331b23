"""XEP-0198 that the proxy speaks with the node in the place of a client that does not.

:mod:`.standing_in` has the steps.
"""

from __future__ import annotations

from cxfr_proxy.session.tables import STANDING_IN, StandingIn, follow
from cxfr_proxy.xmpp import names
from cxfr_proxy.xmpp.stream_management import MODULUS


class StandIn:
    """``chance_until`` is how long the client may still ask for it itself, on the relay's clock; ``None``: no longer.

    ``node_id`` is the node's id for the session; ``None``: it can't be resumed. ``last`` is the position of the last
    stanza of the node's that the proxy has acknowledged at the stream's end; ``None``: that was not ended. ``late``
    says whether a client that has asked meanwhile, and is to be answered, wants to be able to resume; ``None``: it has
    not asked.
    """

    __slots__ = ("_origin", "chance_until", "last", "late", "node_id", "state")

    namespace = names.SM

    def __init__(self, chance_until: float) -> None:
        self.state = StandingIn.WAITING
        self.chance_until: float | None = chance_until
        self.node_id: str | None = None
        self.last: int | None = None
        self.late: bool | None = None
        self._origin = 0  # the position of the node's last stanza that does not count

    def _go(self, state: StandingIn) -> None:
        self.state = follow(STANDING_IN, self.state, state)

    @property
    def waiting(self) -> bool:
        """The client may still ask for it itself."""
        return self.state is StandingIn.WAITING

    @property
    def on(self) -> bool:
        """The proxy counts with the node, in the place of the client."""
        return self.state is StandingIn.ON

    @property
    def between(self) -> bool:
        """The node's words about counting are for the proxy, and not for the client."""
        return self.state in (StandingIn.ASKED, StandingIn.ON)

    @property
    def wants_each(self) -> bool:
        """Each of the node's stanzas is to be looked at: the client gets no more of them, or an answer is due at the
        next boundary."""
        return self.last is not None or (self.late is not None and self.between)

    @property
    def resumable(self) -> bool:
        """The proxy can resume the session."""
        return self.on and self.node_id is not None

    def forwarded(self, position: int) -> int:
        """Return how many stanzas the node counts up to that position of its stream."""
        return (position - self._origin) % MODULUS

    def rejoin(self, count: int, position: int) -> None:
        """Go on with the node's new stream, where the stanzas behind ``position`` follow its ``count``."""
        self._origin = position - count

    def ask(self) -> None:
        """Note that the node is asked: the client has had its chance."""
        self.chance_until = None
        self._go(StandingIn.ASKED)

    def begin(self, node_id: str | None, position: int) -> None:
        """Note that the node counts; its stanzas behind that position do."""
        self.node_id = node_id
        self._origin = position
        self._go(StandingIn.ON)

    def end(self, last: int) -> None:
        """Note the position of the last stanza that is acknowledged. The node takes later ones for undelivered."""
        self.last = last

    def drops(self, position: int) -> bool:
        """Return whether the client must not get the node's stanza at that position: the node will see to it."""
        return self.last is not None and position > self.last

    def note_late(self, *, resumable: bool) -> None:
        """Note a request of the client's that is to be answered."""
        self.late = resumable
