"""What becomes of one element that client and node say to each other while the proxy watches."""

from __future__ import annotations

from dataclasses import dataclass, field

from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.opening.attempt import FailedLogin
from cxfr_proxy.xmpp.stanza import Element


@dataclass(frozen=True, slots=True)
class Bound:
    """The stream has a resource. ``full_jid`` is ``None`` after a resumption this proxy had not seen begin."""

    full_jid: str | None
    resumed: bool = False


@dataclass(slots=True)
class Passage:
    """What becomes of one element."""

    forward: bytes = b""
    """To the other side; empty: swallowed."""
    answer: bytes = b""
    """Back to the side it came from."""
    hold_client: bool | None = None
    """True: read nothing more from the client until a passage says False. ``None``: as before."""
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
    begins: Element | None = field(default=None, compare=False, repr=False)
    """The ``<auth/>`` or ``<authenticate/>`` in ``forward``, where no exchange is under way with the node."""
    greets: bool = False
    """These are the node's stream features."""
    failed: FailedLogin | None = None
    """The login that has failed by this."""
    asks: bool = field(default=False, compare=False)
    """Part of a login: the node has to answer it."""
