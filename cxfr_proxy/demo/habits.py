"""Kinds of client, and what each does when it is told to move: the table :data:`HABITS`."""

from __future__ import annotations

import base64
import hashlib
import ssl
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from xml.sax.saxutils import quoteattr

from cxfr_proxy.demo.wire import HostPort
from cxfr_proxy.xmpp import names


class ClientKind(StrEnum):
    """How a client reacts when it is told to move."""

    CXFR = "cxfr"
    """Knows XEP-0051: says yes, finishes, closes, goes there."""
    CXFR_SILENT = "cxfr-silent"
    """Knows XEP-0051, but closes and goes without an answer, as the one client in wide use does."""
    SEE_OTHER_HOST = "see-other-host"
    """Refuses the IQ, and follows the stream error."""
    PLAIN = "plain"
    """Refuses the IQ, and comes back to the address it has always used."""
    MUTE = "mute"
    """Like ``PLAIN``, but never answers an IQ that it does not know."""
    STREAM_MANAGEMENT = "stream-management"
    """Like ``PLAIN``, with XEP-0198: resumes after a bare FIN."""
    WEBSOCKET = "websocket"
    """Like ``PLAIN``, by WebSocket: a page with a library."""
    WEBSOCKET_RESUMING = "websocket+sm"
    """Like ``MUTE``, by WebSocket and with XEP-0198: a web client that people use all day."""
    CXFR_RESUMING = "cxfr+sm"
    CXFR_SILENT_RESUMING = "cxfr-silent+sm"
    SEE_OTHER_HOST_RESUMING = "see-other-host+sm"


class SeenRung(StrEnum):
    """How a client was made to move, as it looked from its side."""

    MIGRATE = "migrate"
    """It looked like nothing: the proxy has taken its session to the other node."""
    CXFR = "cxfr"
    SEE_OTHER_HOST = "see-other-host"
    RESET = "reset"
    """Any other stream error, or ``</stream:stream>`` without one."""
    CUT = "cut"
    """The bytes just ended."""


class Security(StrEnum):
    NONE = "none"
    STARTTLS = "starttls"
    DIRECT_TLS = "direct-tls"


class Life(StrEnum):
    """A client's present state."""

    AWAY = "away"
    CONNECTING = "connecting"
    BOUND = "bound"
    MOVING = "moving"
    """It has been told to go and is finishing."""
    GONE = "gone"
    """For good."""


@dataclass(frozen=True, slots=True)
class Habits:
    """``None`` for ``answer`` is silence."""

    knows_cxfr: bool = False
    answers: bool = True
    follows_redirect: bool = False
    resumes: bool = False
    websocket: bool = False


HABITS: Final = {
    ClientKind.CXFR: Habits(knows_cxfr=True),
    ClientKind.CXFR_SILENT: Habits(knows_cxfr=True, answers=False),
    ClientKind.SEE_OTHER_HOST: Habits(follows_redirect=True),
    ClientKind.PLAIN: Habits(),
    ClientKind.MUTE: Habits(answers=False),
    ClientKind.STREAM_MANAGEMENT: Habits(resumes=True),
    ClientKind.WEBSOCKET: Habits(websocket=True),
    ClientKind.WEBSOCKET_RESUMING: Habits(answers=False, resumes=True, websocket=True),
    ClientKind.CXFR_RESUMING: Habits(knows_cxfr=True, resumes=True),
    ClientKind.CXFR_SILENT_RESUMING: Habits(knows_cxfr=True, answers=False, resumes=True),
    ClientKind.SEE_OTHER_HOST_RESUMING: Habits(follows_redirect=True, resumes=True),
}


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect, and how."""

    address: HostPort
    security: Security


@dataclass(frozen=True, slots=True)
class ClientLogin:
    """How a client logs in.

    ``tls`` is the context that verifies the server (against the domain, wherever the client connects); ``None`` with
    ``Security.NONE`` only. ``resource``: ``None`` leaves it to the server. ``header_from`` is who its stream headers
    say it is; most clients say nothing.
    """

    security: Security = Security.NONE
    tls: ssl.SSLContext | None = None
    password: str = "secret"
    resource: str | None = "demo"
    header_from: str | None = None

    def __post_init__(self) -> None:
        if self.tls is None and self.security is not Security.NONE:
            raise ValueError("TLS needs a context")


@dataclass(frozen=True, slots=True)
class Traffic:
    """A numbered message every ``interval_seconds``. ``peer`` is ``None`` for the echo service.

    Another :class:`DemoClient` as ``peer`` echoes too, but only while it is online: what comes back as an error counts
    as *refused*, and what was on its way to it when its stream ended is lost.
    """

    interval_seconds: float
    peer: str | None = None


@dataclass(frozen=True, slots=True)
class ClientMove:
    """A stream that ended, and what came after it: ``seconds`` from the end to the next bind or resumption."""

    rung: SeenRung
    where: HostPort
    seconds: float
    resumed: bool


@dataclass(frozen=True, slots=True)
class Ending:
    """How a stream ended. ``target`` is ``None`` where nobody said where to go."""

    rung: SeenRung
    target: Target | None = None


# --- the software that each kind says it is


def capabilities(kind: ClientKind) -> str:
    """Return the XEP-0115 element of a kind's presence."""
    return (
        f"<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='urn:cxfr-proxy:demo:{kind}'"
        f" ver='{caps_hash(kind)}'/>"
    )


def disco_info(kind: ClientKind, node: str | None) -> str:
    """Return the answer to disco#info (XEP-0030), of that ``node``."""
    known = "".join(f"<feature var='{var}'/>" for var in _features(kind))
    of = f" node={quoteattr(node)}" if node else ""
    return f"<query xmlns='{names.DISCO_INFO}'{of}><identity category='client' type='pc' name='{kind}'/>{known}</query>"


def caps_hash(kind: ClientKind) -> str:
    """Return the XEP-0115 verification string (section 5.1) of a kind's disco#info."""
    text = f"client/pc//{kind}<" + "".join(f"{var}<" for var in sorted(_features(kind)))
    return base64.b64encode(hashlib.sha1(text.encode(), usedforsecurity=False).digest()).decode()


def _features(kind: ClientKind) -> list[str]:
    own = [names.CXFR] if HABITS[kind].knows_cxfr else []
    return [names.DISCO_INFO, names.PING, *own]
