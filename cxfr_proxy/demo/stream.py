"""One client stream at a demo node, from header to ``</stream:stream>``.

Elements are answered in the order in which they came, and answers are queued in that order. So when the client closes
its stream, everything that is due to it stands in the queue before the node's own ``</stream:stream>``.

The handlers are one table, :attr:`NodeStream.HANDLERS`. Any element that is not in it ends the stream.
"""

from __future__ import annotations

import base64
import binascii
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final
from xml.sax.saxutils import escape, quoteattr

import trio
from lxml import etree

from cxfr_proxy.demo.account import Numbered
from cxfr_proxy.demo.cluster import DemoCluster, NodeSession
from cxfr_proxy.demo.proxy_header import ProxyHeader
from cxfr_proxy.demo.wire import (
    GONE,
    IQ_TAG,
    MESSAGE_TAG,
    PRESENCE_TAG,
    STANZA_TAGS,
    Connection,
    EndOfFile,
    Malformed,
    StreamClosed,
    StreamOpened,
)
from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.names import StanzaCondition, StreamCondition
from cxfr_proxy.xmpp.stanza import STREAM_END, Element, child, qualified

FLUSH_SECONDS: Final = 2.0
"""How long a closing stream waits for a peer that does not read, or does not close."""
ACK_EVERY: Final = 5
"""Stanzas sent between two requests for an acknowledgement: often enough for the demo to show resumption."""
CAPS: Final = "http://jabber.org/protocol/caps"
"""XEP-0115."""


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


class NodeStream:
    """One connection; :meth:`run` lives as long as it does and closes it."""

    def __init__(
        self, service: NodeService, transport: trio.abc.Stream, *, proxy_header: ProxyHeader | None = None
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
        self._domain = service.cluster.domain
        self._ending = trio.Event()
        self._over = False
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
                if self._over:  # else the client is gone, and nobody waits for what is queued
                    with trio.move_on_after(FLUSH_SECONDS):
                        await self.connection.flush()
                        if closed:
                            await self.connection.close_politely()
                nursery.cancel_scope.cancel()
        finally:
            self._over = True
            self._unroute(closed=closed)
            await self.connection.close()

    # ---- the node's side of ending ----

    def end(self, condition: StreamCondition, text: str | None = None) -> None:
        """Send a stream error, ``</stream:stream>`` and FIN; nothing that comes in from now on counts."""
        self.end_with(stanza.stream_error(condition, text) + STREAM_END)

    def end_with(self, last: bytes) -> None:
        """Send these last bytes, then FIN. Empty: only the FIN."""
        if not self._over:
            self._over = True
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
        self._over = True
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
            if self._over:
                continue  # we have said our last word, and only wait for the client's FIN
            if isinstance(incoming, StreamClosed):
                self._over = True
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
        self.connection.write(stanza.stream_header(to=header.from_, from_=self._domain, stream_id=self.stream_id))
        if header.to != self._domain:
            self.end(StreamCondition.HOST_UNKNOWN, f"this node serves {self._domain}")
        else:
            self.connection.write(self._features(named="@" in (header.from_ or "")))

    def _features(self, *, named: bool = True) -> bytes:
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
        handler = self.HANDLERS.get(str(element.tag))
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
            self._over = True
        self.tls = True
        self.connection.upgrade(tls)

    # ---- logging in ----

    def _login(self, response: str | None) -> bool:
        """Log in by SASL PLAIN (RFC 4616). An authorization identity is ignored."""
        try:
            _, user, password = base64.b64decode(response or "", validate=True).decode().split("\0")
        except (binascii.Error, ValueError):
            return False
        check = self.service.offers.check_password
        if not user or (check is not None and not check(user, password)):
            return False
        self.user = f"{user}@{self._domain}"
        return True

    def _auth(self, element: Element) -> None:
        """Ask a client that has sent no initial response for it (RFC 6120 section 6.4.2)."""
        if element.get("mechanism") == "EXTERNAL" and self.service.external:
            self.user = base64.b64decode(element.text or "").decode()
            self._answer_login(True)
        elif element.get("mechanism") == "PLAIN" and not element.text:
            self.connection.write(f"<challenge xmlns='{names.SASL}'/>".encode())
        else:
            self._answer_login(element.get("mechanism") == "PLAIN" and self._login(element.text))

    def _response(self, element: Element) -> None:
        self._answer_login(self._login(element.text))

    def _answer_login(self, accepted: bool) -> None:
        if accepted:
            self.connection.write(f"<success xmlns='{names.SASL}'/>".encode())
            self.connection.restart()
        else:
            self.connection.write(f"<failure xmlns='{names.SASL}'><not-authorized/></failure>".encode())

    def _authenticate(self, element: Element) -> None:
        """Log in by SASL2 (XEP-0388) with Bind 2 (XEP-0386) and stream management inline; there is no restart."""
        if element.get("mechanism") != "PLAIN" or not self._login(
            element.findtext(qualified(names.SASL2, "initial-response"))
        ):
            self.connection.write(
                f"<failure xmlns='{names.SASL2}'><not-authorized xmlns='{names.SASL}'/></failure>".encode()
            )
            return
        inner = ""
        resume = child(element, names.SM, "resume")
        bind = child(element, names.BIND2, "bind")
        session = self._to_resume(resume) if resume is not None else None
        if resume is not None and session is not None:
            inner = self._resumed(session, resume)
        elif resume is not None:
            inner = self._resume_failed()
        if self.session is None and bind is not None and not self._over:
            inner += self._bind2(bind)
        if self._over:
            return  # the resumption had a wrong h
        self.connection.write(
            f"<success xmlns='{names.SASL2}'><authorization-identifier>{escape(self._jid())}"
            f"</authorization-identifier>{inner}</success>".encode()
        )
        if session is None:
            self.connection.write(self._features())
        else:
            self._replay(session)
            self._live()

    def _bind2(self, bind: Element) -> str:
        tag = bind.findtext(qualified(names.BIND2, "tag"))
        self._bound(f"{tag}~{self.cluster.serial()}" if tag else None)
        enable = child(bind, names.SM, "enable")
        enabled = self._enabled(enable) if enable is not None else ""
        return f"<bound xmlns='{names.BIND2}'>{enabled}</bound>"

    def _jid(self) -> str:
        return self.session.full_jid if self.session is not None else self.user or ""

    def _bound(self, resource: str | None) -> NodeSession:
        full_jid = f"{self.user}/{resource or self.cluster.serial()}"
        self.session = self.cluster.bind(full_jid, self.service.node, self)
        self.connection.opened()
        return self.session

    def _live(self) -> None:
        """Deliver what waited for the user, ahead of all that comes now, and start what runs beside a bound stream.

        A session that was resumed is available. A new one says so by its first presence, behind ``<enable/>``: what
        came before that would be counted by nobody (XEP-0198 section 3), and lost with a connection that is lost then.
        """
        if self.session is not None:
            self.session.waiting += self.cluster.undelivered.pop(self.session.bare_jid, ())
            self.session.deliver_waiting()
        if self.session is not None and self.session.bare_jid in self.cluster.push_intervals:
            self.start_pushing()

    # ---- stream management, XEP-0198 ----

    def _enable(self, element: Element) -> None:
        if self.session is None or self.session.counters is not None or not self.service.offers.stream_management:
            self.connection.write(
                f"<failed xmlns='{names.SM}'><unexpected-request xmlns='{names.STANZA_ERRORS}'/></failed>".encode()
            )
            return
        self.connection.write(self._enabled(element).encode())

    def _enabled(self, enable: Element) -> str:
        assert self.session is not None
        resumable = enable.get("resume") in ("true", "1")
        counters = self.cluster.enable(self.session, resumable=resumable)
        resume = f" id='{counters.sm_id}' resume='true'" if resumable else ""
        location = self.service.offers.sm_location
        where = f" location={quoteattr(location)}" if resumable and location is not None else ""
        return f"<enabled xmlns='{names.SM}'{resume}{where}/>"

    def _resume(self, element: Element) -> None:
        if self.user is None:
            self.end(StreamCondition.NOT_AUTHORIZED, "log in first")
            return
        session = self._to_resume(element)
        if session is None:
            self.connection.write(self._resume_failed().encode())
            return
        resumed = self._resumed(session, element)
        if not self._over:
            self.connection.write(resumed.encode())
            self._replay(session)
            self._live()

    def _to_resume(self, element: Element) -> NodeSession | None:
        if self.session is not None or self.user is None:
            return None
        return self.cluster.resumable(element.get("previd", ""), self.user, self.service.node)

    @staticmethod
    def _resume_failed() -> str:
        return f"<failed xmlns='{names.SM}'><item-not-found xmlns='{names.STANZA_ERRORS}'/></failed>"

    def _resumed(self, session: NodeSession, element: Element) -> str:
        """Take the session over: ``<resumed/>``. Ends this stream, and takes nothing over, if ``h`` is impossible."""
        assert session.counters is not None
        if not self._acknowledged(session, element.get("h")):
            return ""
        self.cluster.resume(session, self.service.node, self)
        self.session = session
        self.connection.opened()
        counters = session.counters
        return f"<resumed xmlns='{names.SM}' h='{counters.received}' previd='{counters.sm_id}'/>"

    def _replay(self, session: NodeSession | None) -> None:
        """Send again what the client of a resumed session has not acknowledged."""
        if session is not None and session.counters is not None:
            for data, numbered in session.counters.unacknowledged:
                self.connection.write(data, numbered)

    def _acknowledged(self, session: NodeSession, h: str | None) -> bool:
        counters = session.counters
        assert counters is not None
        value = int(h) if h is not None and h.isdecimal() else -1
        if value >= 0 and counters.acknowledge(value):
            return True
        self.end_with(
            f"<stream:error><undefined-condition xmlns='{names.STREAM_ERRORS}'/>"
            f"<handled-count-too-high xmlns='{names.SM}' h={quoteattr(h or '')} send-count='{counters.sent}'/>"
            "</stream:error></stream:stream>".encode()
        )
        return False

    def _ack(self, element: Element) -> None:
        if self.session is not None and self.session.counters is not None:
            self._acknowledged(self.session, element.get("h"))

    def _ack_request(self, element: Element) -> None:
        if self.session is not None and self.session.counters is not None:
            self.connection.write(f"<a xmlns='{names.SM}' h='{self.session.counters.received}'/>".encode())

    # ---- stanzas ----

    def write(self, data: bytes, numbered: Numbered | None = None) -> None:
        """Send the session's stanzas down (:class:`~cxfr_proxy.demo.cluster.SessionStream`)."""
        if self._over:
            return
        self.connection.write(data, numbered)
        counters = self.session.counters if self.session is not None else None
        if counters is not None and counters.sent % ACK_EVERY == 0:
            self.connection.write(f"<r xmlns='{names.SM}'/>".encode())

    def _written(self, numbered: Numbered) -> None:
        if self.session is not None and self.session.record.key == numbered.origin:
            self.session.record.written.add(numbered.number)

    def _csi(self, element: Element) -> None:
        """Accept XEP-0352: nothing is held back here that could be."""

    def _message(self, element: Element) -> None:
        session = self._bound_session()
        if session is None:
            return
        body = element.findtext(qualified(names.CLIENT, "body"))
        numbered = Numbered.parse(body)
        if numbered is not None and element.get("type") != "error":
            session.record.received.append(numbered)
        if element.get("to") == f"echo.{self._domain}":
            self._deliver(
                f"<message from='echo.{self._domain}' to={quoteattr(session.full_jid)} type='chat'"
                f" id={quoteattr(element.get('id', ''))}><body>{escape(body or '')}</body></message>".encode()
            )
        else:
            self._route(element)

    def _deliver(self, data: bytes) -> None:
        if self.session is not None:
            self.session.deliver(data)

    def _route(self, element: Element) -> None:
        """Deliver to everybody online at that JID, on any node; else send it back as an error."""
        to = element.get("to")
        element.set("from", self._jid())
        targets = self.cluster.find(to) if to else []
        if not targets:
            self._refuse(element)
            return
        data = stanza.serialize(element)
        for target in targets:
            target.deliver(data)

    def _refuse(self, element: Element) -> None:
        element.set("from", self._jid())
        reply = stanza.error_reply(element, StanzaCondition.SERVICE_UNAVAILABLE, "cancel", "nobody here does that")
        if reply is not None:
            self._deliver(reply)

    def _presence(self, element: Element) -> None:
        """Make the session available (RFC 6121 section 4.2), and note the software behind it (XEP-0115).

        Nobody has a roster here, so nothing else is of interest.
        """
        if element.get("type") is None and element.get("to") is None:
            self._live()
        caps = child(element, CAPS, "c")
        if caps is None or not self.service.offers.asks_capabilities:
            return
        node = f"{caps.get('node', '')}#{caps.get('ver', '')}"
        self._deliver(
            f"<iq type='get' id='caps-{self.cluster.serial()}' from='{self._domain}' to={quoteattr(self._jid())}>"
            f"<query xmlns='{names.DISCO_INFO}' node={quoteattr(node)}/></iq>".encode()
        )

    def _iq(self, element: Element) -> None:
        kind, to = element.get("type"), element.get("to")
        if kind == "set" and self.session is None and child(element, names.BIND, "bind") is not None:
            self._iq_bind(element)
            return
        session = self._bound_session()
        if session is None:
            return
        if to is not None and to not in (self._domain, session.bare_jid):
            self._route(element)
        elif kind in ("result", "error"):
            session.record.replies[element.get("id", "")] = kind
        else:
            self._iq_request(element)

    def _iq_request(self, element: Element) -> None:
        payload = str(element[0].tag) if len(element) else ""
        if payload in (qualified(names.SESSION, "session"), qualified(names.PING, "ping")):
            self._result(element, "")
        elif payload == qualified(names.DISCO_INFO, "query"):
            features = "".join(f"<feature var='{var}'/>" for var in (names.DISCO_INFO, names.PING))
            self._result(
                element,
                f"<query xmlns='{names.DISCO_INFO}'><identity category='server' type='im' "
                f"name='{escape(self.service.node)}'/>{features}</query>",
            )
        else:
            self._refuse(element)

    def _iq_bind(self, element: Element) -> None:
        self._bound(element.findtext(f"{qualified(names.BIND, 'bind')}/{qualified(names.BIND, 'resource')}"))
        self._result(element, f"<bind xmlns='{names.BIND}'><jid>{escape(self._jid())}</jid></bind>")

    def _result(self, element: Element, payload: str) -> None:
        sender = f" from={quoteattr(element.get('to', ''))}" if element.get("to") else ""
        self._deliver(
            f"<iq type='result' id={quoteattr(element.get('id', ''))} to={quoteattr(self._jid())}{sender}>"
            f"{payload}</iq>".encode()
        )

    def _bound_session(self) -> NodeSession | None:
        if self.session is None:
            self.end(StreamCondition.NOT_AUTHORIZED, "bind a resource first")
        return self.session

    # ---- traffic of the node's own ----

    def start_pushing(self) -> None:
        """Send numbered messages by itself while the cluster has an interval for this user."""
        if self._nursery is not None and not self._pushing:
            self._pushing = True
            self._nursery.start_soon(self._push)

    async def _push(self) -> None:
        session = self.session
        assert session is not None
        while session.leg is self and not self._over:
            interval_seconds = self.cluster.push_intervals.get(session.bare_jid)
            if interval_seconds is None:
                break
            session.push_numbered()
            await trio.sleep(interval_seconds)
        self._pushing = False

    HANDLERS: ClassVar[dict[str, Callable[[NodeStream, Element], None]]] = {
        qualified(names.SASL, "auth"): _auth,
        qualified(names.SASL, "response"): _response,
        qualified(names.SASL2, "authenticate"): _authenticate,
        qualified(names.SM, "enable"): _enable,
        qualified(names.SM, "resume"): _resume,
        qualified(names.SM, "a"): _ack,
        qualified(names.SM, "r"): _ack_request,
        qualified(names.CSI, "active"): _csi,
        qualified(names.CSI, "inactive"): _csi,
        MESSAGE_TAG: _message,
        PRESENCE_TAG: _presence,
        IQ_TAG: _iq,
    }
