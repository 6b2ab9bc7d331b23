"""Choose the way to tell this client to move.

The ways are a ladder of rungs, tried in order; each has a deadline, and the next one follows. The ladder begins where
the client is known to react best; docs/connection-transfer.md has what was measured of real clients.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cxfr_proxy.xmpp.connection_transfer import Server


class Rung(StrEnum):
    """One way to move a client."""

    MIGRATE = "migrate"
    """The proxy resumes the session on the other node itself, under the client's stream: the client notices nothing."""
    CXFR = "cxfr"
    """The connection-transfer IQ, XEP-0051. The session stays up while the client prepares to move."""
    CUT = "cut"
    """Both legs are cut without a word: the fastest way to bring back clients that resume their stream (XEP-0198)."""
    SEE_OTHER_HOST = "see-other-host"
    """The stream error of RFC 6120 section 4.9.3.19; to a client on WebSocket ``<close see-other-uri='…'/>`` (RFC 7395
    section 3.6.1)."""
    RESET = "reset"
    """The stream error of RFC 6120 section 4.9.3.16: reconnect to the same address."""


class Trigger(StrEnum):
    """The occasion of a transfer."""

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
    """The order to move one session.

    ``target`` is the node to which it goes; ``None``: it only has to reconnect. ``server`` is the address that the
    client is told, by whichever rung; ``None``: its own domain. ``url`` is the same for a client on WebSocket, to which
    the end of the stream can name it. ``hurried``: there is no time to ask, only to tell. ``resumes``: a stream that is
    cut (XEP-0198) can be resumed at its target. ``node_dead``: the session's node will not answer any more.
    ``migrates``: source and target share sessions, and let the proxy take one from the one to the other.
    """

    trigger: Trigger
    target: str | None = None
    server: Server | None = None
    url: str | None = None
    hurried: bool = False
    resumes: bool = True
    node_dead: bool = False
    migrates: bool = False

    @property
    def forced(self) -> bool:
        """The operator wants it, or the client would lose its session where it is; otherwise it could as well stay."""
        return self.trigger not in _UNFORCED

    @property
    def place(self) -> str | None:
        """The one node on which the client is wanted, although it could stay where it is; ``None``: any other."""
        return self.target if self.trigger in _PLACING else None


@dataclass(frozen=True, slots=True)
class Traits:
    """The traits of a client that decide about its rungs.

    ``resumable``: by XEP-0198. ``migratable``: the proxy could do that itself, now. ``knows_cxfr``: ``None`` if nothing
    is known. ``preferred``: ways to end its stream that its software takes better than the usual ones; ``CUT`` among
    them even if it can't resume. ``redirected_home``: ``SEE_OTHER_HOST`` names its own domain and never another
    address.
    """

    tls: bool
    resumable: bool
    full_jid_known: bool
    knows_cxfr: bool | None
    preferred: tuple[Rung, ...] = ()
    redirected_home: bool = False
    migratable: bool = False


_USUAL: Final = (Rung.CUT, Rung.SEE_OTHER_HOST, Rung.RESET)


def next_rung(traits: Traits, order: Order, tried: Collection[Rung], *, try_unknown: bool) -> Rung:
    """Return the rung to try after ``tried``. :attr:`Rung.RESET` is always possible; it ends the stream, so nothing
    follows it."""
    # It takes a login, and two answers of nodes: time that a hurried order does not leave.
    if Rung.MIGRATE not in tried and traits.migratable and order.migrates and not order.hurried:
        return Rung.MIGRATE
    # Asking a client that does not know the IQ costs the whole deadline; a client that resumes is back sooner by a cut.
    may_know = traits.knows_cxfr if traits.knows_cxfr is not None else try_unknown and not traits.resumable
    may_ask = traits.full_jid_known and not order.hurried
    if Rung.CXFR not in tried and may_know and may_ask:
        return Rung.CXFR
    if traits.resumable and order.resumes:
        return Rung.CUT  # before any habit: the session goes on
    ways = (*traits.preferred, *_USUAL)
    return next(rung for rung in ways if rung not in tried and _can_be(rung, traits, order))


def _can_be(rung: Rung, traits: Traits, order: Order) -> bool:
    if rung is Rung.CUT:
        return traits.resumable or rung in traits.preferred
    if rung is Rung.SEE_OTHER_HOST:
        # Only over TLS: in plaintext anybody on the path could have written the error.
        return traits.redirected_home or (order.server is not None and traits.tls)
    return True
