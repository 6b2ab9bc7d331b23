"""The settings that are a choice of few: what there is to choose from."""

from __future__ import annotations

from enum import StrEnum


class StartTls(StrEnum):
    """What a client on a plain connection may do before TLS."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    OFF = "off"


class Route(StrEnum):
    """When a client's node is chosen."""

    LOGIN = "login"
    """Once it has begun to log in, where that can be."""
    CONNECT = "connect"
    """As soon as its stream begins."""


class SaslAuthzid(StrEnum):
    """Who a client may ask to be logged in as."""

    SAME = "same"
    ALLOW = "allow"


class RebalanceMode(StrEnum):
    """Whether users are moved by themselves when they have come to belong elsewhere."""

    AUTO = "auto"
    MANUAL = "manual"


class WrongNode(StrEnum):
    """What becomes of a session that was bound on a node that is not its user's own."""

    TRANSFER = "transfer"
    KEEP = "keep"


class TrustNodeRedirects(StrEnum):
    """Whether a node may send its clients to another host."""

    NO = "no"
    YES = "yes"


class CxfrUnknown(StrEnum):
    """Whether clients of which nothing is known are asked by XEP-0051 first."""

    TRY = "try"
    SKIP = "skip"


class OnNodeDown(StrEnum):
    """What becomes of the sessions that a node still has when checks are sure that it is down."""

    TRANSFER = "transfer"
    CLOSE = "close"
    KEEP = "keep"


class SmAfterTransfer(StrEnum):
    """What becomes of a stream with XEP-0198 into which the proxy has put a stanza, when its client leaves."""

    END = "end"
    WRAP = "wrap"
