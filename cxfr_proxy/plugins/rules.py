"""Must a client follow this request to move?

The sender of a request that is followed decides where the client logs in next, so everything that is not certain is
refused. A refusal costs little, since the proxy then tells the client in another way. The checks run in this order, so
that a stranger learns nothing from the answer except that it is one:

1. The sender is the client's own domain, or nobody (RFC 6120 section 8.1.2.1: a stanza without ``from`` is the
   server's). A server never lets anybody else write either.
2. The stanza is a request by the grammar of :mod:`cxfr_proxy.xmpp.connection_transfer`, in its laxer reading, since the
   listings of the specification have neither an id nor a full JID.
3. The domain is the client's own. Another domain is another account, and the password would go there: only if the
   application has named it.
4. The stream is encrypted. In plaintext anybody on the path could have written the request, so it may only say
   "reconnect as you did".
5. The client has not been sent round too often: at most :data:`MAX_MOVES` moves in a row.
"""

from __future__ import annotations

from collections.abc import Collection
from copy import copy
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cxfr_proxy.xmpp import jid
from cxfr_proxy.xmpp.connection_transfer import ConnectionTransfer, Server, TransferSyntaxError
from cxfr_proxy.xmpp.stanza import Element

MAX_MOVES: Final = 5
"""The upper end of what RFC 6120 section 4.9.3.19 advises for redirects: beyond it, it is a loop."""


class Condition(StrEnum):
    """The stanza errors (RFC 6120 section 8.3.3) that a request is refused with."""

    NOT_ALLOWED = "not-allowed"
    BAD_REQUEST = "bad-request"
    NOT_ACCEPTABLE = "not-acceptable"
    RESOURCE_CONSTRAINT = "resource-constraint"
    UNEXPECTED_REQUEST = "unexpected-request"

    @property
    def type(self) -> str:
        """The error's ``type``: what the sender can do about it (section 8.3.2)."""
        return _TYPES[self]


_TYPES: Final = {
    Condition.NOT_ALLOWED: "cancel",
    Condition.BAD_REQUEST: "modify",
    Condition.NOT_ACCEPTABLE: "modify",
    Condition.RESOURCE_CONSTRAINT: "wait",
    Condition.UNEXPECTED_REQUEST: "wait",
}


@dataclass(frozen=True, slots=True)
class Situation:
    """The client's situation when a request comes.

    ``jid`` is its full JID as bound. ``moves`` counts the moves in a row so far, without a session that has lasted
    between them. ``domains`` are those that it may be sent to beside its own.
    """

    jid: str
    tls: bool
    moves: int = 0
    max_moves: int = MAX_MOVES
    domains: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """Close the stream and connect to ``server``, logging in to ``domain``.

    ``server`` is ``None`` for "simply reconnect": by the address that the client is configured with. In either case the
    certificate there has to be ``domain``'s. ``id`` is empty if the request had none and can't be answered.
    """

    id: str
    domain: str
    server: Server | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Stay, and answer with this error."""

    condition: Condition
    text: str


def judge(request: Element, situation: Situation) -> Move | Refusal:
    """Decide about an IQ of type ``set`` with a query in ``urn:xmpp:cxfr``. Nothing of the IQ is changed."""
    own = jid.domain(situation.jid)
    sender = request.get("from")
    if sender is not None and not _same(sender, own):
        return Refusal(Condition.NOT_ALLOWED, "only the server may move its client")
    try:
        transfer = ConnectionTransfer.parse(_addressed(request, own, situation.jid), strict=False)
    except TransferSyntaxError as error:
        return Refusal(Condition.BAD_REQUEST, str(error))
    if not any(_same(transfer.domain, each) for each in (own, *situation.domains)):
        return Refusal(Condition.NOT_ACCEPTABLE, "this client does not log in to that domain")
    server = None if _same(str(transfer.server), transfer.domain) else transfer.server
    if not situation.tls and (server is not None or not _same(transfer.domain, own)):
        return Refusal(Condition.NOT_ACCEPTABLE, "without TLS a client can't be sent elsewhere")
    if situation.moves >= situation.max_moves:
        return Refusal(Condition.RESOURCE_CONSTRAINT, f"moved {situation.moves} times in a row")
    return Move(transfer.id, transfer.domain, server)


def _same(one: str, other: str) -> bool:
    """Return whether two spellings name one domain; an internationalised name equals only itself, not its ASCII
    form."""
    return one.lower() == other.lower()  # not casefold(), which takes two names for one: ß is not ss in DNS


def _addressed(request: Element, own: str, full_jid: str) -> Element:
    """Return the request with the addresses that it may leave out (RFC 6120 sections 8.1.1.1 and 8.1.2.1)."""
    if request.get("from") is not None and request.get("to") is not None:
        return request
    addressed = copy(request)
    addressed.set("from", request.get("from", own))
    addressed.set("to", request.get("to", full_jid))
    return addressed
