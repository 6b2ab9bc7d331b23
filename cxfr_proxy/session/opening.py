"""The opening of a session, while client and node negotiate: what each was shown, who has to speak next, and how long
it may take.

It exists from the session's start until the stream is bound. The elements themselves are watched and changed by
:class:`cxfr_proxy.xmpp.opening.negotiation.Negotiation`.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from cxfr_proxy.session.commands import EarlyLogin
from cxfr_proxy.session.node_owes import End, Owes, Turn
from cxfr_proxy.session.tables import FEATURES, Features, follow
from cxfr_proxy.xmpp.opening.login import Login
from cxfr_proxy.xmpp.opening.negotiation import Negotiation
from cxfr_proxy.xmpp.opening.verdict import ElementVerdict

_DUE: Final = Features.DUE
_PROXYS: Final = Features.PROXYS
_SEEN: Final = Features.SEEN
_RESOURCE: Final = Owes.RESOURCE

MAX_SILENT: Final = 2
"""Nodes that may fail to greet a client before the client is refused."""


class Opening:
    """``early`` is the login for which the session came to its node; ``None``: the node is final, or has begun
    something that no other node could go on with. ``silent`` are nodes that have not greeted this client. ``bind_by``
    is when the stream has to be bound, on the relay's clock.

    ``header_may_repeat`` is independent of all states: some clients send their first header twice on direct TLS (QXmpp)
    and mean one stream, until they have sent anything else.
    """

    __slots__ = ("answer_due", "bind_by", "early", "features", "header_may_repeat", "silent", "turn")

    def __init__(self, early: EarlyLogin | None, silent: tuple[str, ...]) -> None:
        self.early = early
        self.silent = silent
        self.bind_by = 0.0
        self.features = _DUE if early is None or early.shown is None else _PROXYS
        self.header_may_repeat = self.features is _DUE
        self.answer_due = b""  # to what the client asked for before it knew the node's features
        self.turn = Turn()

    def begin(self, now: float, negotiation_timeout: float) -> None:
        """Note the time at which the node's stream is opened."""
        self.bind_by = now + negotiation_timeout if self.early is None else self.early.bind_by
        self.turn.opened(now)

    @property
    def may_try_another(self) -> bool:
        """Whether another node may have the client if this one does not greet it."""
        return not self.turn.spoken and len(self.silent) < MAX_SILENT

    def restart(self) -> None:
        """Begin both streams anew. From here on the client is this node's."""
        self.features = follow(FEATURES, self.features, _DUE)
        self.early = None

    # --- the client

    def note_piece(self) -> None:
        """Note that the client has sent something that does not repeat its header."""
        self.header_may_repeat = False

    def note_client(self, verdict: ElementVerdict, now: float, negotiation: Negotiation) -> None:
        """Note an element of the client's that the node gets."""
        if not verdict.asks:
            self.turn.note_odd()
        # It holds the client for an answer and begins no login: a response to a challenge.
        elif verdict.hold_client and verdict.begins is None:
            self.turn.responded(now)
        else:
            self.turn.asked(now, proved=negotiation.proved)

    def settle_for_node(self) -> None:
        """Keep the node: the client has sent what is no part of a login, and waits for this node's answer."""
        self.early = None

    def name(self, login: Login) -> bool:
        """Note the client's login. Return whether it differs from the one known so far, and may lead to another
        node."""
        early = self.early
        # The same user again, after a wrong password, say, has the same node.
        if early is None or login == early.login or not early.changes_left:
            return False
        self.early = replace(early, login=login)
        return True

    def postpone(self, answer: bytes) -> None:
        """Keep the answer to something that the client asked before it had features. It is sent behind them."""
        self.answer_due = answer

    # --- the node

    def note_node(self, verdict: ElementVerdict, now: float, negotiation: Negotiation) -> None:
        """Note an element of the node's."""
        turn = self.turn
        if verdict.greets:
            turn.greeted(now)
        elif verdict.restart:
            turn.accepted(now, restarts=True)
        elif verdict.hold_client is False:
            if negotiation.proved:
                turn.accepted(now, restarts=False)
            else:
                turn.answered(challenges=verdict.failed is None)
        elif turn.owes is _RESOURCE:
            turn.answered()

    def see_features(self) -> None:
        """Note that the client has features from here on: the node's, or those that it has seen before."""
        self.features = follow(FEATURES, self.features, _SEEN)

    def take_answer(self) -> bytes:
        """Return the answer that waited for the features; empty where there is none."""
        answer, self.answer_due = self.answer_due, b""
        return answer

    def is_nodes_fault(self, end: End, now: float) -> bool:
        """Return whether a login that ends so counts against the node."""
        return self.turn.is_its_fault(end, now)
