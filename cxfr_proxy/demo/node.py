"""A small XMPP server, for the demo and the tests, with everything that a proxy's node leg may meet, and every way to
stop.

A node listens two or three times. The *plain* address is for the proxy: TCP, with STARTTLS and PROXY headers where
asked for. The *public* address is where clients are sent: direct TLS, and STARTTLS for clients that begin in the clear.
At the *migration* address a proxy that shows a certificate logs in as any user, over direct TLS. Beyond the
specification a node acts as a witness: it keeps a record of everything that it took in and wrote
(:class:`~cxfr_proxy.demo.account.SessionRecord`), and it can be told to send any bytes down a session.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from enum import StrEnum
from functools import partial
from typing import Final

import trio

from cxfr_proxy.demo import node_logins, node_resumption, node_stanzas
from cxfr_proxy.demo.account import SessionRecord
from cxfr_proxy.demo.cluster import DemoCluster, NodeSession
from cxfr_proxy.demo.proxy_header import BadProxyHeader, ProxyHeader, read_proxy_header
from cxfr_proxy.demo.stream import NodeOffers, NodeService, NodeStream
from cxfr_proxy.demo.wire import GONE, HostPort
from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.stanza import STREAM_END

OPENING_SECONDS: Final = 10.0
"""For a PROXY header or a TLS handshake."""
_TLS_HANDSHAKE: Final = b"\x16"
"""The first byte of a TLS connection (RFC 8446 section 5.1): no XML begins with it."""
_LINGER_RESET: Final = b"\x01\x00\x00\x00\x00\x00\x00\x00"
"""``struct linger`` on, zero seconds."""
_HANDLERS: Final = {**node_logins.HANDLERS, **node_resumption.HANDLERS, **node_stanzas.HANDLERS}


class StopStyle(StrEnum):
    """How a node goes down; measured on real servers."""

    SYSTEM_SHUTDOWN = "system-shutdown"
    """Prosody: stream error with a text, ``</stream:stream>``, FIN."""
    RESET = "reset"
    """ejabberd on SIGTERM: stream error ``reset`` and FIN, without ``</stream:stream>``."""
    KILL = "kill"
    """SIGKILL: the sockets close in the middle of everything."""
    REFUSE = "refuse"
    """Only the listeners close; sessions live on. Real servers do this first of all."""


class DemoNode:
    """One node. :meth:`serve` runs it; :attr:`address` and :attr:`public_address` are known once it has started.

    ``cluster`` is ``None`` for a node of its own; otherwise its domain has to be ``domain``. ``proxy_protocol`` expects
    a PROXY header on the plain address and nowhere else. ``migration_tls`` has to ask for a certificate.
    """

    def __init__(
        self,
        name: str,
        domain: str = "localhost",
        *,
        cluster: DemoCluster | None = None,
        port: int = 0,
        public_tls: ssl.SSLContext | None = None,
        migration_tls: ssl.SSLContext | None = None,
        proxy_protocol: bool = False,
        offers: NodeOffers | None = None,
    ) -> None:
        if cluster is not None and cluster.domain != domain:
            raise ValueError(f"the cluster serves {cluster.domain}, not {domain}")
        self.name = name
        self.domain = domain
        self.cluster = cluster or DemoCluster(domain)
        self.address = HostPort("127.0.0.1", port)
        self.public_address: HostPort | None = None
        self.migration_address: HostPort | None = None
        self.streams: set[NodeStream] = set()
        """Every connection that has got past its TLS handshake."""
        self.accepted = 0
        """Connections taken, of any kind."""
        self._public_tls = public_tls
        self._migration_tls = migration_tls
        self._proxy_protocol = proxy_protocol
        self._listening = trio.CancelScope()
        self._stopped = trio.Event()
        self._service = NodeService(name, self.cluster, offers if offers is not None else NodeOffers())

    async def serve(self, *, task_status: trio.TaskStatus[DemoNode] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until :meth:`stop` (other than ``REFUSE``) has ended every stream."""
        host = self.address.host
        plain = await trio.open_tcp_listeners(self.address.port, host=host)
        self.address = _address_of(plain[0])
        public = await trio.open_tcp_listeners(0, host=host) if self._public_tls is not None else []
        self.public_address = _address_of(public[0]) if public else None
        migration = await trio.open_tcp_listeners(0, host=host) if self._migration_tls is not None else []
        self.migration_address = _address_of(migration[0]) if migration else None
        async with trio.open_nursery() as streams:
            with self._listening:
                async with trio.open_nursery() as listeners:
                    serve = partial(trio.serve_listeners, handler_nursery=streams)
                    listeners.start_soon(serve, self._serve_plain, plain)
                    if public:
                        listeners.start_soon(serve, self._serve_public, public)
                    if migration:
                        listeners.start_soon(serve, self._serve_migration, migration)
                    task_status.started(self)
            await self._stopped.wait()

    async def _serve_plain(self, raw: trio.SocketStream) -> None:
        self.accepted += 1
        header: ProxyHeader | None = None
        async with raw:
            if self._proxy_protocol:
                try:
                    with trio.fail_after(OPENING_SECONDS):
                        header = await read_proxy_header(raw)
                except (BadProxyHeader, *GONE, trio.TooSlowError):
                    # As ejabberd does: a connection without the header is reset.
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
                    return
            await self._run(NodeStream(self._service, raw, _HANDLERS, proxy_header=header))

    async def _serve_public(self, raw: trio.SocketStream) -> None:
        self.accepted += 1
        context = self._public_tls
        assert context is not None
        async with raw:
            first = b""
            with trio.move_on_after(OPENING_SECONDS), suppress(*GONE):
                first = await raw.socket.recv(1, socket.MSG_PEEK)
            if not first:
                return
            if first != _TLS_HANDSHAKE:
                await self._run(NodeStream(self._with_starttls(context), raw, _HANDLERS))
                return
            await self._serve_tls(raw, context, self._with_starttls(None))

    async def _serve_migration(self, raw: trio.SocketStream) -> None:
        self.accepted += 1
        context, service = self._migration_tls, self._with_starttls(None)
        assert context is not None
        async with raw:
            await self._serve_tls(raw, context, replace(service, external=True))

    async def _serve_tls(self, raw: trio.SocketStream, context: ssl.SSLContext, service: NodeService) -> None:
        tls = trio.SSLStream(raw, context, server_side=True)
        try:
            with trio.fail_after(OPENING_SECONDS):
                await tls.do_handshake()
        except (*GONE, trio.TooSlowError):
            return
        await self._run(NodeStream(service, tls, _HANDLERS))

    def _with_starttls(self, context: ssl.SSLContext | None) -> NodeService:
        return replace(self._service, offers=replace(self._service.offers, starttls=context))

    async def _run(self, stream: NodeStream) -> None:
        if self._stopped.is_set():
            return
        with self._registered(stream):
            await stream.run()

    @contextmanager
    def _registered(self, stream: NodeStream) -> Iterator[None]:
        self.streams.add(stream)
        try:
            yield
        finally:
            self.streams.discard(stream)

    async def stop(self, how: StopStyle) -> None:
        """Go down in the given way. Returns when nothing is left to send; ``REFUSE`` leaves all sessions alive."""
        self._listening.cancel()
        if how is StopStyle.REFUSE:
            return
        self._stopped.set()
        for session in self.cluster.on_node(self.name):
            self.cluster.drop(session, keep=how is not StopStyle.KILL)
        for stream in list(self.streams):
            if how is StopStyle.KILL:
                await stream.cut()
            elif how is StopStyle.RESET:
                stream.end_with(stanza.stream_error(StreamCondition.RESET))
            else:
                stream.end(StreamCondition.SYSTEM_SHUTDOWN, "The node is going down")
        for stream in list(self.streams):
            await stream.connection.flush()

    # ---- the witness stand ----

    @property
    def sessions(self) -> list[NodeSession]:
        """Everybody here, hibernating sessions included."""
        return self.cluster.on_node(self.name)

    @property
    def records(self) -> list[SessionRecord]:
        """Of every session that was ever bound here or resumed here."""
        return [record for record in self.cluster.records if self.name in record.nodes]

    def stream_of(self, full_jid: str) -> NodeStream:
        """Return the stream that carries a session of this node. Raises :class:`LookupError`."""
        for stream in self.streams:
            session = stream.session
            if session is not None and session.full_jid == full_jid and session.leg is stream:
                return stream
        raise LookupError(f"{full_jid} is not connected to {self.name}")

    def push(self, full_jid: str, data: bytes) -> None:
        """Send raw bytes down a session: half a stanza, a forged one, a giant. No counter notices."""
        self.stream_of(full_jid).connection.write(data)

    def deliver(self, full_jid: str, data: bytes) -> None:
        """Send one stanza down a session, counted by XEP-0198 like any other."""
        session = self.stream_of(full_jid).session
        assert session is not None
        session.deliver(data)

    def start_pushing(self, jid: str, interval_seconds: float) -> None:
        """Send numbered messages to a user (bare or full JID) from now on, here and wherever they move."""
        bare_jid = jid.partition("/")[0]
        self.cluster.push_intervals[bare_jid] = interval_seconds
        for stream in self.streams:
            if stream.session is not None and stream.session.bare_jid == bare_jid:
                stream.start_pushing()

    def end(self, full_jid: str, condition: StreamCondition, content: str | None = None) -> None:
        """End one session with a stream error; ``content`` is the address in ``see-other-host``."""
        self.stream_of(full_jid).end_with(stanza.stream_error(condition, content=content) + STREAM_END)

    async def cut(self, full_jid: str) -> None:
        """Close one session's socket without a word; with XEP-0198 the session hibernates."""
        await self.stream_of(full_jid).cut()


def _address_of(listener: trio.SocketListener) -> HostPort:
    host, port = listener.socket.getsockname()[:2]
    return HostPort(host, port)
