"""What becomes of one element that client and node say to each other while the proxy watches."""

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
    """What becomes of one element, and what it means for its session."""

    forward: bytes = b""
    """To the other side; empty: swallowed."""
    answer: bytes = b""
    """Back to the side it came from."""
    hold_client: bool | None = None
    """True: read nothing more from the client until a verdict says False. ``None``: as before."""
    restart: bool = False
    """Both streams begin anew behind this element."""
    bound: Bound | None = None
    start_tls: bool = False
    """The client asks for the STARTTLS that was offered."""
    ends_text: str | None = None
    """What the node says about it, for the operator."""
    resumable: bool = False
    """From here on the client can resume the stream."""
    ends: StreamCondition | str | None = None
    """The node's stream is over by an error with this condition, which is in ``forward``; empty: by one of ours."""
    redirect: str | None = None
    """Where that error sends the client, as the node wrote it."""
    begins: Login | None = None
    """Who logs in by the ``<auth/>`` or ``<authenticate/>`` in ``forward``; ``None`` where none is, or an exchange is
    under way with the node already."""
    greets: bool = False
    """These are the node's stream features."""
    failed: FailedLogin | None = None
    """The login that has failed by this."""
    asks: bool = False
    """Part of a login: the node has to answer it."""
