"""A session as long as client and node negotiate: what was shown to whom, whose turn it is, and how long it may take.

Exists from the session's start until the stream is bound. What of the elements themselves has to be watched or changed
is :class:`cxfr_proxy.xmpp.opening.negotiation.Negotiation`'s.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from cxfr_proxy.session.commands import EarlyLogin
from cxfr_proxy.session.node_owes import End, Owes, Turn
from cxfr_proxy.session.tables import FEATURES, Features, follow
from cxfr_proxy.xmpp.opening.login import Login
from cxfr_proxy.xmpp.opening.verdict import ElementVerdict

MAX_SILENT: Final = 2
"""Nodes that a client has waited for in vain before it is told so."""


class Opening:
    """``early`` is how the session came to its node; ``None``: the node is final, or has begun what no other could go
    on with. ``silent`` are nodes that have not greeted this client. ``bind_by``, on the relay's clock, is when the
    stream has to be bound.

    ``header_may_repeat`` is independent of all states: some clients say their first header twice on direct TLS (QXmpp)
    and mean one stream, until they have said anything else.
    """

    __slots__ = ("answer_due", "bind_by", "early", "features", "header_may_repeat", "silent", "turn")

    def __init__(self, early: EarlyLogin | None, silent: tuple[str, ...]) -> None:
        self.early = early
        self.silent = silent
        self.bind_by = 0.0
        self.features = Features.DUE if early is None or early.shown is None else Features.PROXYS
        self.header_may_repeat = self.features is Features.DUE
        self.answer_due = b""  # to what the client asked for before it knew the node's features
        self.turn = Turn()

    def begin(self, now: float, negotiation_timeout: float) -> None:
        """The node's stream is opened now."""
        self.bind_by = now + negotiation_timeout if self.early is None else self.early.bind_by
        self.turn.opened(now)

    @property
    def may_try_another(self) -> bool:
        """Whether another node may have the client, where this one does not greet."""
        return not self.turn.spoken and len(self.silent) < MAX_SILENT

    def restart(self) -> None:
        """Both streams begin anew: it is this node's client now."""
        self.features = follow(FEATURES, self.features, Features.DUE)
        self.early = None

    # --- the client

    def note_piece(self) -> None:
        """It has said something that is not its header once more."""
        self.header_may_repeat = False

    def note_client(self, verdict: ElementVerdict, now: float, *, proved: bool) -> None:
        """It has said something that the node gets."""
        if not verdict.asks:
            self.turn.note_odd()
        elif verdict.hold_client and verdict.begins is None:
            self.turn.responded(now)
        else:
            self.turn.asked(now, proved=proved)

    def settle_for_node(self) -> None:
        """It has said what is no part of a login, and waits for this node's answer."""
        self.early = None

    def name(self, login: Login) -> bool:
        """The client logs in so. Return whether that is another login than was known, and may get another node."""
        early = self.early
        if early is None or login == early.login or not early.changes_left:
            return False
        self.early = replace(early, login=login)
        return True

    def postpone(self, answer: bytes) -> None:
        """The answer to what it asked before it knew the features comes behind them."""
        self.answer_due = answer

    # --- the node

    def note_node(self, verdict: ElementVerdict, now: float, *, proved: bool) -> None:
        """It has said something."""
        turn = self.turn
        if verdict.greets:
            turn.greeted(now)
        elif verdict.restart:
            turn.accepted(now, restarts=True)
        elif verdict.hold_client is False and proved:
            turn.accepted(now, restarts=False)
        elif verdict.hold_client is False:
            turn.answered(challenges=verdict.failed is None)
        elif turn.owes is Owes.RESOURCE:
            turn.answered()

    def see_features(self) -> None:
        """The client has features from here on, the node's or those that it has seen before."""
        self.features = follow(FEATURES, self.features, Features.SEEN)

    def take_answer(self) -> bytes:
        """Return the answer that waited for the features; empty where there is none."""
        answer, self.answer_due = self.answer_due, b""
        return answer

    def is_nodes_fault(self, end: End, now: float) -> bool:
        """Whether a login that ends so counts against the node."""
        return self.turn.is_its_fault(end, now)
