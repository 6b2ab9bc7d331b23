"""Which way to tell this client to move, now.

A ladder of rungs, tried in order; each has a deadline, and the next one follows. What a client is known to do decides
where it starts. See "Transfers" in docs/architecture.md for what was measured of real clients.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cxfr_proxy.xmpp.connection_transfer import Server


class Rung(StrEnum):
    """One way to tell a client."""

    CXFR = "cxfr"
    """The connection-transfer IQ, XEP-0051. The session stays up while the client prepares to move."""
    CUT = "cut"
    """Both legs are cut without a word: what brings XEP-0198 clients back fastest, asking to resume."""
    SEE_OTHER_HOST = "see-other-host"
    """The stream error of RFC 6120 section 4.9.3.19."""
    RESET = "reset"
    """The stream error of RFC 6120 section 4.9.3.16: reconnect as you did."""


class Trigger(StrEnum):
    """What a transfer is for."""

    DRAIN = "drain"
    NODE_SHUTDOWN = "node-shutdown"
    NODE_REDIRECTED = "node-redirected"
    NODE_LOST = "node-lost"
    NODE_DOWN = "node-down"
    """Checks find its node down, and its sessions have not noticed."""
    WRONG_NODE = "wrong-node"
    """Its user belongs on another node."""
    REBALANCE = "rebalance"
    MOVE = "move"
    """The operator moves this one user."""
    PROXY_STOP = "proxy-stop"
    WORKER_RESTART = "worker-restart"


_PLACING: Final = frozenset((Trigger.WRONG_NODE, Trigger.REBALANCE, Trigger.MOVE))
_UNFORCED: Final = frozenset((Trigger.WRONG_NODE, Trigger.REBALANCE))


@dataclass(frozen=True, slots=True)
class Order:
    """A session is to move.

    ``target`` is the node it goes to; ``None`` where it is only to reconnect. ``server`` is the address told to the
    client, by whichever rung; ``None``: its domain, "simply reconnect". ``hurried``: there is no time to ask, only to
    tell. ``resumes``: a stream that is cut (XEP-0198) can be resumed where the client goes. ``node_dead``: nothing
    is to be expected of the session's node any more.
    """

    trigger: Trigger
    target: str | None = None
    server: Server | None = None
    hurried: bool = False
    resumes: bool = True
    node_dead: bool = False

    @property
    def forced(self) -> bool:
        """Somebody wants it, or the client would lose its session where it is; else it could as well stay."""
        return self.trigger not in _UNFORCED

    @property
    def place(self) -> str | None:
        """The one node that the client is to be on, although it could stay where it is; ``None``: there is none."""
        return self.target if self.trigger in _PLACING else None


@dataclass(frozen=True, slots=True)
class Traits:
    """What decides about a client's rungs.

    ``resumable``: by XEP-0198. ``knows_cxfr``: ``None`` where nothing is known. ``preferred``: the ways to
    end its stream that its software takes better than the usual ones; ``CUT`` among them even if it can't resume.
    ``redirected_home``: told ``SEE_OTHER_HOST`` with its own domain and never with another address.
    """

    tls: bool
    resumable: bool
    full_jid_known: bool
    knows_cxfr: bool | None
    preferred: tuple[Rung, ...] = ()
    redirected_home: bool = False


_USUAL: Final = (Rung.CUT, Rung.SEE_OTHER_HOST, Rung.RESET)


def next_rung(traits: Traits, order: Order, tried: Collection[Rung], *, try_unknown: bool) -> Rung:
    """The rung to try after ``tried``. :attr:`Rung.RESET` can always be; it ends the stream, so nothing follows it."""
    # A guess that is wrong costs a client that can resume its stream more than a cut does.
    may_know = traits.knows_cxfr if traits.knows_cxfr is not None else try_unknown and not traits.resumable
    may_ask = traits.full_jid_known and not order.hurried
    if Rung.CXFR not in tried and may_know and may_ask:
        return Rung.CXFR
    if traits.resumable and order.resumes:
        return Rung.CUT  # nobody's habit is better than a session that goes on
    ways = (*traits.preferred, *_USUAL)
    return next(rung for rung in ways if rung not in tried and _can_be(rung, traits, order))


def _can_be(rung: Rung, traits: Traits, order: Order) -> bool:
    if rung is Rung.CUT:
        return traits.resumable or rung in traits.preferred
    if rung is Rung.SEE_OTHER_HOST:
        # Only TLS streams are sent elsewhere: in plaintext anybody on the way could have written the error.
        return traits.redirected_home or (order.server is not None and traits.tls)
    return True
