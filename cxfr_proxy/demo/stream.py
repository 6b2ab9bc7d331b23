"""One client stream at a demo node, from header to ``</stream:stream>``.

Elements are answered in the order in which they came, and answers are queued in that order. So when the client closes
its stream, everything that is due to it stands in the queue before the node's own ``</stream:stream>``.

The stream gets its handlers as one table, by the elements that they answer. Any element that is not in it ends the
stream.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import trio
from lxml import etree

from cxfr_proxy.demo.account import Numbered
from cxfr_proxy.demo.cluster import DemoCluster, NodeSession
from cxfr_proxy.demo.proxy_header import ProxyHeader
from cxfr_proxy.demo.wire import (
    GONE,
    STANZA_TAGS,
    Connection,
    EndOfFile,
    Malformed,
    StreamClosed,
    StreamOpened,
)
from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.stanza import STREAM_END, Element, qualified

FLUSH_SECONDS: Final = 2.0
"""How long a closing stream waits for a peer that does not read, or does not close."""
ACK_EVERY: Final = 5
"""Stanzas sent between two requests for an acknowledgement: often enough for the demo to show resumption."""


@dataclass(frozen=True, slots=True)
class NodeOffers:
    """The features that a node offers its clients. ``starttls`` is ``None`` if TLS is not to be had, or is on already.

    ``check_password`` gets the bare user name and the password; ``None`` lets everybody in.
    """

    starttls: ssl.SSLContext | None = None
    check_password: Callable[[str, str], bool] | None = None
    sasl2: bool = True
    sasl2_by_name: bool = False
    """Offer it only to a client whose header says who it is, as ejabberd does since 24.02."""
    stream_management: bool = True
    extra_features: str = ""
    """XML put into every ``<stream:features/>``, for what a proxy has to strip."""
    sm_location: str | None = None
    """The ``location`` that ``<enabled/>`` carries (XEP-0198 section 3); ``None``: none."""
    asks_capabilities: bool = False
    """Ask each new XEP-0115 hash what its software can do, as real servers do."""


@dataclass(frozen=True, slots=True)
class NodeService:
    """One listener of a node's."""

    node: str
    cluster: DemoCluster
    offers: NodeOffers
    external: bool = False
    """A program that connects may log in as any user, by SASL EXTERNAL: they have shown a certificate that is good for
    it."""


ElementHandler = Callable[["NodeStream", Element], None]
"""Acts on one element of a stream."""


class NodeStream:
    """One connection; :meth:`run` lives as long as it does and closes it."""

    def __init__(
        self,
        service: NodeService,
        transport: trio.abc.Stream,
        handlers: Mapping[str, ElementHandler],
        *,
        proxy_header: ProxyHeader | None = None,
    ) -> None:
        self.service = service
        self.cluster = service.cluster
        self.proxy_header = proxy_header
        self.session: NodeSession | None = None
        self.user: str | None = None
        self.tls = isinstance(transport, trio.SSLStream)
        self.connection = Connection(transport)
        self.connection.on_written = self._written
        self.stream_id = ""
        self.domain = service.cluster.domain
        self.over = False
        """Whether the last word was said: nothing that comes in counts any more."""
        self._handlers = handlers
        self._ending = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._pushing = False

    async def run(self) -> None:
        """Serve the stream until it ends; never raises for what the client does."""
        closed = False
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.connection.write_forever)
                nursery.start_soon(self._end_when_told, nursery.cancel_scope)
                closed = await self._serve()
                if self.over:  # else the client is gone, and nobody waits for what is queued
                    with trio.move_on_after(FLUSH_SECONDS):
                        await self.connection.flush()
                        if closed:
                            await self.connection.close_politely()
                nursery.cancel_scope.cancel()
        finally:
            self.over = True
            self._unroute(closed=closed)
            await self.connection.close()

    # ---- the node's side of ending ----

    def end(self, condition: StreamCondition, text: str | None = None) -> None:
        """Send a stream error, ``</stream:stream>`` and FIN; nothing that comes in from now on counts."""
        self.end_with(stanza.stream_error(condition, text) + STREAM_END)

    def end_with(self, last: bytes) -> None:
        """Send these last bytes, then FIN. Empty: only the FIN."""
        if not self.over:
            self.over = True
            self.connection.write(last)
            self._ending.set()
            self._unroute(closed=False)

    async def _end_when_told(self, scope: trio.CancelScope) -> None:
        await self._ending.wait()
        scope.deadline = trio.current_time() + FLUSH_SECONDS
        await self.connection.flush()
        await self.connection.half_close()

    async def cut(self) -> None:
        """Close the socket in the middle of everything, as a killed process does."""
        self.over = True
        self._unroute(closed=False)
        await self.connection.close()

    def _unroute(self, *, closed: bool) -> None:
        """Have stanzas for the session wait from now on, or go back: here they would vanish."""
        if self.session is not None:
            self.cluster.leg_lost(self.session, self, closed=closed)

    # ---- reading ----

    async def _serve(self) -> bool:
        """Read to the end; true if the client closed its stream with ``</stream:stream>``."""
        while True:
            incoming = await self.connection.read()
            if isinstance(incoming, EndOfFile):
                return False
            if self.over:
                continue  # we have said our last word, and only wait for the client's FIN
            if isinstance(incoming, StreamClosed):
                self.over = True
                self._unroute(closed=True)
                self.connection.write(STREAM_END)
                return True
            if isinstance(incoming, Malformed):
                self.end(StreamCondition.NOT_WELL_FORMED, incoming.reason)
            elif isinstance(incoming, StreamOpened):
                self._open(incoming)
            else:
                await self._handle(incoming)

    def _open(self, header: StreamOpened) -> None:
        self.stream_id = self.cluster.serial()
        self.connection.write(stanza.stream_header(to=header.from_, from_=self.domain, stream_id=self.stream_id))
        if header.to != self.domain:
            self.end(StreamCondition.HOST_UNKNOWN, f"this node serves {self.domain}")
        else:
            self.connection.write(self.features(named="@" in (header.from_ or "")))

    def features(self, *, named: bool = True) -> bytes:
        """Return ``<stream:features/>`` as they are now; ``named``: the client's header has said who it is."""
        sm = f"<sm xmlns='{names.SM}'/>" if self.service.offers.stream_management else ""
        if self.user is not None:
            inner = f"<bind xmlns='{names.BIND}'/><session xmlns='{names.SESSION}'><optional/></session>{sm}"
            inner += f"<csi xmlns='{names.CSI}'/>"
        elif self.service.offers.starttls is not None and not self.tls:
            inner = f"<starttls xmlns='{names.TLS}'><required/></starttls>"
        else:
            external = "<mechanism>EXTERNAL</mechanism>" if self.service.external else ""
            inner = f"<mechanisms xmlns='{names.SASL}'><mechanism>PLAIN</mechanism>{external}</mechanisms>"
            if self.service.offers.sasl2 and (named or not self.service.offers.sasl2_by_name):
                inner += (
                    f"<authentication xmlns='{names.SASL2}'><mechanism>PLAIN</mechanism><inline>"
                    f"<bind xmlns='{names.BIND2}'><inline><feature var='{names.SM}'/></inline></bind>{sm}"
                    "</inline></authentication>"
                )
        return f"<stream:features>{inner}{self.service.offers.extra_features}</stream:features>".encode()

    async def _handle(self, element: Element) -> None:
        if element.tag == qualified(names.TLS, "starttls") and self.service.offers.starttls is not None:
            await self._starttls(self.service.offers.starttls)
            return
        handler = self._handlers.get(str(element.tag))
        if handler is None:
            self.end(StreamCondition.UNSUPPORTED_STANZA_TYPE, f"unknown element {etree.QName(element).localname}")
            return
        if element.tag in STANZA_TAGS:
            if self.user is None:
                self.end(StreamCondition.NOT_AUTHORIZED, "log in first")
                return
            if self.session is not None and self.session.counters is not None:
                self.session.counters.received += 1
        handler(self, element)

    async def _starttls(self, context: ssl.SSLContext) -> None:
        if self.tls:
            self.end(StreamCondition.POLICY_VIOLATION, "TLS is on")
            return
        self.connection.write(f"<proceed xmlns='{names.TLS}'/>".encode())
        await self.connection.flush()
        tls = trio.SSLStream(self.connection.transport, context, server_side=True)
        try:
            await tls.do_handshake()
        except GONE:
            self.over = True
        self.tls = True
        self.connection.upgrade(tls)

    # ---- its session ----

    def jid(self) -> str:
        """Return the full JID if there is a session, else the bare one; empty before the login."""
        return self.session.full_jid if self.session is not None else self.user or ""

    def bind(self, resource: str | None) -> None:
        """Begin a session; ``None``: the node chooses the resource."""
        full_jid = f"{self.user}/{resource or self.cluster.serial()}"
        self.session = self.cluster.bind(full_jid, self.service.node, self)
        self.connection.opened()

    def deliver(self, data: bytes) -> None:
        """Send one stanza to this stream's own client, if it has a session."""
        if self.session is not None:
            self.session.deliver(data)

    def go_live(self) -> None:
        """Deliver what waited for the user, ahead of all that comes now, and start what runs beside a bound stream.

        A session that was resumed is available. A new one says so by its first presence, behind ``<enable/>``: what
        came before that would be counted by nobody (XEP-0198 section 3), and lost with a connection that is lost then.
        """
        if self.session is not None:
            self.session.waiting += self.cluster.undelivered.pop(self.session.bare_jid, ())
            self.session.deliver_waiting()
        if self.session is not None and self.session.bare_jid in self.cluster.push_intervals:
            self.start_pushing()

    def write(self, data: bytes, numbered: Numbered | None = None) -> None:
        """Send the session's stanzas down (:class:`~cxfr_proxy.demo.cluster.SessionStream`)."""
        if self.over:
            return
        self.connection.write(data, numbered)
        counters = self.session.counters if self.session is not None else None
        if counters is not None and counters.sent % ACK_EVERY == 0:
            self.connection.write(f"<r xmlns='{names.SM}'/>".encode())

    def _written(self, numbered: Numbered) -> None:
        if self.session is not None and self.session.record.key == numbered.origin:
            self.session.record.written.add(numbered.number)

    # ---- traffic of the node's own ----

    def start_pushing(self) -> None:
        """Send numbered messages by itself while the cluster has an interval for this user."""
        if self._nursery is not None and not self._pushing:
            self._pushing = True
            self._nursery.start_soon(self._push)

    async def _push(self) -> None:
        session = self.session
        assert session is not None
        while session.leg is self and not self.over:
            interval_seconds = self.cluster.push_intervals.get(session.bare_jid)
            if interval_seconds is None:
                break
            session.push_numbered()
            await trio.sleep(interval_seconds)
        self._pushing = False
