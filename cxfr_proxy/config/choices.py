"""The values of the settings that offer a choice."""

from __future__ import annotations

from enum import StrEnum


class StartTls(StrEnum):
    """The choices of a client on a plain connection before TLS."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    OFF = "off"


class Route(StrEnum):
    """When a client's node is chosen."""

    LOGIN = "login"
    """Once the client has begun to log in, where that is possible."""
    CONNECT = "connect"
    """As soon as the client's stream begins."""


class ProxyHeaderUse(StrEnum):
    """Whether a trusted proxy has to say whose connection it passes on."""

    REQUIRED = "required"
    OPTIONAL = "optional"


class ForwardingHeader(StrEnum):
    """The header that the trusted proxies write, by its name in small letters.

    There is one for a proxy, not whichever is there: a proxy that writes the one passes the other on as the client has
    made it up.
    """

    X_FORWARDED_FOR = "x-forwarded-for"
    FORWARDED = "forwarded"


class SaslAuthzid(StrEnum):
    """As which users a client may log in."""

    SAME = "same"
    ALLOW = "allow"


class RebalanceMode(StrEnum):
    """Whether users whose home has changed are moved by themselves."""

    AUTO = "auto"
    MANUAL = "manual"


class WrongNode(StrEnum):
    """The treatment of a session that was bound on another node than its user's home."""

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
    """The treatment of the sessions of a node that is down for sure."""

    TRANSFER = "transfer"
    CLOSE = "close"
    KEEP = "keep"


class NodeStreamManagement(StrEnum):
    """Whether the proxy speaks XEP-0198 with nodes in the place of clients that don't."""

    OFF = "off"
    ON = "on"


class SmAfterTransfer(StrEnum):
    """The treatment of a stream with XEP-0198 into which the proxy has injected a stanza, when its client leaves."""

    END = "end"
    WRAP = "wrap"


class ReusePort(StrEnum):
    """Whether another proxy may listen on the same addresses."""

    NO = "no"
    YES = "yes"
