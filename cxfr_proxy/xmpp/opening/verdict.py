"""The verdict on one element of client's or node's that the proxy watches."""

from __future__ import annotations

from msgspec import Struct

from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.opening.attempt import FailedLogin
from cxfr_proxy.xmpp.opening.login import Login


class Bound(Struct, frozen=True, gc=False):
    """The stream has a resource. ``full_jid`` is ``None`` after a resumption this proxy had not seen begin."""

    full_jid: str | None
    resumed: bool = False


class ElementVerdict(Struct, gc=False):
    """The treatment of one element, and its meaning for the session."""

    forward: bytes = b""
    """The bytes for the other side; empty: the element is swallowed."""
    answer: bytes = b""
    """The bytes for the side from which it came."""
    hold_client: bool | None = None
    """True: read nothing more from the client until a verdict says False. ``None``: as before."""
    restart: bool = False
    """Both streams begin anew behind this element."""
    bound: Bound | None = None
    start_tls: bool = False
    """The client asks for the STARTTLS that was offered."""
    ends_text: str | None = None
    """The node's own text about it, for the operator."""
    resumable: bool = False
    """From here on the client can resume the stream."""
    ends: StreamCondition | str | None = None
    """The condition of the error by which the node's stream is over; ``forward`` has the error, or is empty for one of
    ours."""
    redirect: str | None = None
    """The address to which that error sends the client, as the node wrote it."""
    begins: Login | None = None
    """The login that begins by the ``<auth/>`` or ``<authenticate/>`` in ``forward``; ``None`` if none does, or an
    exchange with the node is under way already."""
    greets: bool = False
    """These are the node's stream features."""
    failed: FailedLogin | None = None
    """The login that has failed by this element."""
    asks: bool = False
    """It is part of a login, and the node has to answer it."""
