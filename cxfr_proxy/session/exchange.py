"""The exchange of a session's node leg for another one, to another node or to the same, while it runs.

:mod:`.exchanging` describes the steps.
"""

from __future__ import annotations

from cxfr_proxy.session.legs import NodeLeg
from cxfr_proxy.session.tables import EXCHANGING, Exchanging, follow


class Exchange:
    """``node`` is the name of the node that the session goes to. ``since`` is when it began, ``leave_by`` when the
    session has to have left the old leg, and ``held_since`` since when its client is not read, all on the relay's
    clock.

    ``acknowledged`` is how many of the node's stanzas the client has acknowledged, by the node's count; ``None`` while
    that is not known. ``handled`` is how many of the client's the old node had handled when the legs were exchanged,
    and ``forwarded`` how many of the node's the client had been sent then. ``replayed_until`` is the position on the
    new stream up to which the client has got everything.
    """

    __slots__ = (
        "acknowledged",
        "forwarded",
        "handled",
        "held_since",
        "leave_by",
        "leg",
        "node",
        "replayed_until",
        "since",
        "state",
    )

    def __init__(self, node: str, since: float, leave_by: float) -> None:
        self.node = node
        self.since = since
        self.leave_by = leave_by
        self.state = Exchanging.DIALLING
        self.leg: NodeLeg | None = None
        self.acknowledged: int | None = None
        self.held_since = 0.0
        self.handled = 0
        self.forwarded = 0
        self.replayed_until = 0

    @property
    def on_old_leg(self) -> bool:
        """The old leg is in its place: the session can go on with it, and neither side notices."""
        return self.state in (Exchanging.DIALLING, Exchanging.SETTLING)

    @property
    def dials(self) -> bool:
        """The relay makes a connection, or has made one that is not in use."""
        return self.on_old_leg or self.broken

    @property
    def broken(self) -> bool:
        """There is no leg in its place."""
        return self.state is Exchanging.BROKEN

    @property
    def holds_client(self) -> bool:
        """No node would get the client's bytes."""
        return self.state in (Exchanging.SETTLING, Exchanging.BROKEN, Exchanging.RESUMING)

    def _go(self, state: Exchanging) -> None:
        self.state = follow(EXCHANGING, self.state, state)

    def note_acknowledged(self, count: int | None) -> None:
        """Note how many of the node's stanzas the client has acknowledged; ``None``: nothing new."""
        self.acknowledged = count if count is not None else self.acknowledged

    def take_leg(self, leg: NodeLeg) -> None:
        """Note the leg to the new node."""
        self.leg = leg

    @property
    def can_settle(self) -> bool:
        """Nothing more has to be known, or made, before the old node is asked how far it is."""
        return self.state is Exchanging.DIALLING and self.leg is not None and self.acknowledged is not None

    @property
    def waits_for_client(self) -> bool:
        """All that is missing is the client's acknowledgement."""
        return self.state is Exchanging.DIALLING and self.leg is not None and self.acknowledged is None

    def settle(self, now: float) -> None:
        """Wait until the old node has said how far it is. The client is not read from now on."""
        self.held_since = now
        self._go(Exchanging.SETTLING)

    def break_off(self, forwarded: int, now: float) -> None:
        """Go on without the leg in its place, whose connection is gone. So many stanzas of the node's were
        ``forwarded`` to the client, which is not read from now on."""
        if not self.holds_client:
            self.held_since = now
        self.forwarded = forwarded
        self._go(Exchanging.BROKEN)

    def resume(self, handled: int, forwarded: int) -> NodeLeg:
        """Return the leg that takes the old one's place. The old node has ``handled`` so many stanzas, and so many of
        its own were ``forwarded`` to the client."""
        leg, self.leg = self.leg, None
        assert leg is not None, "or nobody was asked"
        self.handled, self.forwarded = handled, forwarded
        self._go(Exchanging.RESUMING)
        return leg

    def replay(self, until: int) -> None:
        """Note that the new node has the session; the client has got everything up to that position of its stream."""
        self.replayed_until = until
        self._go(Exchanging.REPLAYING)
