"""The states of a session, and what it carries along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from cxfr_proxy.cluster.targets import ANYWHERE, RedirectTargets
from cxfr_proxy.config.table import Limits, Timeouts
from cxfr_proxy.session.client_software import Support
from cxfr_proxy.session.commands import Outcome
from cxfr_proxy.session.ladder import Order, Rung
from cxfr_proxy.xmpp.opening.login import Login
from cxfr_proxy.xmpp.stream_management import Resumption


def _nowhere_else(login: Login, domain: str, node: str) -> bool:
    return False


class State(Enum):
    NEGOTIATING = "negotiating"
    """Client and node agree on authentication and a resource."""
    BOUND = "bound"
    """The stream is in use."""
    TRANSFERRING = "transferring"
    """The client was told to move, or will be as soon as its node's stream is closed."""
    CLOSING = "closing"
    """One of the streams is ended; the rest is waiting for the other parties to end theirs."""
    CLOSED = "closed"


MOVES: Final[dict[State, frozenset[State]]] = {
    State.NEGOTIATING: frozenset((State.BOUND, State.CLOSING, State.CLOSED)),
    State.BOUND: frozenset((State.TRANSFERRING, State.CLOSING, State.CLOSED)),
    State.TRANSFERRING: frozenset((State.BOUND, State.CLOSING, State.CLOSED)),
    State.CLOSING: frozenset((State.CLOSED,)),
    State.CLOSED: frozenset(),
}
"""Every move a session can make. Anything else is a defect, and raises."""


@dataclass(slots=True)
class Settlement:
    """``ping``: the id of the one whose answer is waited for; ``None``: waited for is the client's ``h``, or a later.

    ``over``: there was an answer, and the node's stream is ended.
    """

    ping: str | None = None
    h: int = 0
    over: bool = False
    withheld: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator decided, as far as a session needs it.

    ``token`` makes unguessable text. ``resumption`` tells what is known of a session that can be resumed (XEP-0198), by
    the id that its client has; ``support``, what is known of its software. ``wrap_resumable_ids``: clients get ids of
    the proxy's own. ``redirected_lately``: whether that user (a bare JID) was sent to another address not long before
    that time.
    the proxy's own. ``elsewhere`` says whether who logs in so at that domain belongs on another node than that.
    """

    timeouts: Timeouts
    limits: Limits
    try_unknown: bool
    token: Callable[[], str]
    resumption: Callable[[str], Resumption | None]
    support: Support
    wrap_resumable_ids: bool = False
    trust_node_redirects: bool = False
    redirect_targets: RedirectTargets = ANYWHERE
    redirected_lately: Callable[[str | None, float], bool] = lambda user, now: False
    check_authzid: bool = True
    elsewhere: Callable[[Login, str, str], bool] = _nowhere_else


@dataclass(slots=True)
class Transfer:
    """A transfer under way. Times are the relay's clock, in seconds. ``recalled``: a client that does not go when it is
    asked stays where it is; no further rung follows."""

    order: Order
    started: float
    rung: Rung = Rung.RESET
    iq_id: str = ""
    accepted: bool = False
    recalled: bool = False
    tried: list[tuple[Rung, Outcome]] = field(default_factory=list)
