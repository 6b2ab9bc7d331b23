"""Reaching a node: connect, say whose connection it is, and put TLS on it as its line in the nodes file says."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import trio
from lxml import etree

from cxfr_proxy.cluster.nodes import NodeSpec, NodeTls, UnixAddress
from cxfr_proxy.config import Limits, Timeouts
from cxfr_proxy.errors import ConfigError, NodeError
from cxfr_proxy.relay import proxy_protocol
from cxfr_proxy.relay.endpoint import Endpoint
from cxfr_proxy.relay.proxy_protocol import Peer
from cxfr_proxy.relay.tls import node_context, node_name
from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.framing import Element, Header
from cxfr_proxy.xmpp.lane import Lane
from cxfr_proxy.xmpp.names import StreamCondition

_STARTTLS: Final = f"<starttls xmlns='{names.TLS}'/>".encode()


class Dialer:
    """Connects to nodes. TLS contexts are made once per set of CA certificates; :meth:`forget` reads them anew."""

    def __init__(self, timeouts: Timeouts, limits: Limits) -> None:
        self._timeouts = timeouts
        self._limits = limits
        self._contexts: dict[str | None, ssl.SSLContext] = {}

    def forget(self) -> None:
        """The files with CA certificates may have changed."""
        self._contexts.clear()

    async def dial(self, spec: NodeSpec, domain: str, *, client: Peer | None, proxy: Peer | None) -> Endpoint:
        """A connection to the node on which the client's stream can begin.

        ``client`` and ``proxy`` are the ends of the client's connection, ``None`` where they have no IP address. Raises
        :class:`NodeError` where the node can't be reached in time, or doesn't do what its line says; its text names no
        address. Nothing stays open when cancelled.
        """
        endpoint: Endpoint | None = None
        try:
            with trio.fail_after(self._timeouts.node_connect_timeout):
                endpoint = await _connect(spec)
                if spec.send_proxy is not None:
                    await endpoint.send_all(proxy_protocol.header(spec.send_proxy, client, proxy))
            with trio.fail_after(self._timeouts.tls_handshake_timeout):
                if spec.tls is NodeTls.STARTTLS:
                    await self._ask_for_tls(endpoint, domain)
                if spec.tls is not NodeTls.NONE:
                    await endpoint.start_tls(
                        self._context(spec), server_side=False, server_hostname=node_name(spec, domain)
                    )
        except BaseException as exc:
            if endpoint is not None:
                endpoint.close()
            # ConfigError: the file with the CA certificates, which may have gone bad since the nodes were read.
            if isinstance(exc, OSError | trio.TooSlowError | ValueError | ConfigError):
                raise NodeError(StreamCondition.REMOTE_CONNECTION_FAILED, _why(exc)) from exc
            raise
        return endpoint

    async def probe(self, spec: NodeSpec, domain: str | None) -> str | None:
        """Connect as for a session and hang up; why that failed, ``None`` where it worked.

        ``domain`` ``None``: no client has named one yet; then TLS is tried only where ``verify-name=`` is known.
        """
        name = spec.verify_name or domain
        if name is None:
            spec = replace(spec, tls=NodeTls.NONE)
        try:
            endpoint = await self.dial(spec, name or "", client=None, proxy=None)
        except NodeError as exc:
            return exc.text
        endpoint.close()
        return None

    def check_files(self, specs: Iterable[NodeSpec]) -> None:
        """Read the files with CA certificates that the nodes name. Raises :class:`ConfigError`."""
        for spec in specs:
            if spec.tls is not NodeTls.NONE:
                self._context(spec)

    def _context(self, spec: NodeSpec) -> ssl.SSLContext:
        context = self._contexts.get(spec.ca)
        if context is None:
            context = self._contexts[spec.ca] = node_context(spec)
        return context

    async def _ask_for_tls(self, endpoint: Endpoint, domain: str) -> None:
        """STARTTLS as a client does it, RFC 6120 section 5.4, with a stream of the proxy's own."""
        lane = Lane(max_element_bytes=self._limits.max_element_down, max_depth=self._limits.max_depth)
        await endpoint.send_all(stanza.stream_header(to=domain, from_=None, stream_id=None))
        header = await self._expect(endpoint, lane, Header, b"")
        features = await self._expect(endpoint, lane, Element, header)
        if stanza.child(stanza.parse(features, header), names.TLS, "starttls") is None:
            raise NodeError(StreamCondition.REMOTE_CONNECTION_FAILED, "the node does not offer STARTTLS")
        await endpoint.send_all(_STARTTLS)
        answer = stanza.parse(await self._expect(endpoint, lane, Element, header), header)
        if etree.QName(answer).localname != "proceed":
            raise NodeError(StreamCondition.REMOTE_CONNECTION_FAILED, "the node refused STARTTLS")
        if lane.take_unread():
            raise NodeError(StreamCondition.REMOTE_CONNECTION_FAILED, "the node sent plain bytes behind <proceed/>")

    async def _expect(self, endpoint: Endpoint, lane: Lane, kind: type[Header | Element], header: bytes) -> bytes:
        while True:
            piece = lane.next()
            if piece is None:
                data = await endpoint.receive_some()
                if not data:
                    raise NodeError(StreamCondition.REMOTE_CONNECTION_FAILED, "the node closed the connection")
                lane.feed(data)
            elif isinstance(piece.note, kind):
                return piece.data
            elif piece.note is not None:
                raise NodeError(StreamCondition.REMOTE_CONNECTION_FAILED, "the node's stream ended before STARTTLS")


async def _connect(spec: NodeSpec) -> Endpoint:
    if isinstance(spec.address, UnixAddress):
        return Endpoint.from_stream(await trio.open_unix_socket(spec.address.path))
    return Endpoint.from_stream(await trio.open_tcp_stream(spec.address.host, spec.address.port))


def _why(exc: BaseException) -> str:
    match exc:
        case trio.TooSlowError():
            return "the node did not answer in time"
        case ssl.SSLCertVerificationError():
            return f"the node's certificate was not accepted: {exc.verify_message}"
        case ssl.SSLError():
            return f"TLS with the node failed: {exc.reason or 'unknown reason'}"
        case ConfigError():
            return str(exc)
        case OSError():
            return f"no connection to the node: {_reason(exc)}"
        case _:
            return "the node's stream could not be read"


def _reason(exc: OSError) -> str:
    """The bare reason. trio's own ``OSError`` and its text name the address; behind it are the cause, or several."""
    cause: BaseException | None = exc.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    first = cause if isinstance(cause, OSError) else exc
    if isinstance(first, socket.gaierror) or first.errno is None:
        return first.strerror or "unknown reason"
    return os.strerror(first.errno)
