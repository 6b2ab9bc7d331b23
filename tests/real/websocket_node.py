"""A small XMPP server over WebSocket (RFC 7395), over TLS: logs in whoever comes, and says what a test wants.

It shares no code with anything under test. ``received`` holds every stanza, of all its connections.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio
import trio_websocket
from lxml import etree

from real.programs import DOMAIN, HOST, background

_FRAMING: Final = "urn:ietf:params:xml:ns:xmpp-framing"
_CLIENT: Final = "jabber:client"
_SASL: Final = "urn:ietf:params:xml:ns:xmpp-sasl"
_BIND: Final = "urn:ietf:params:xml:ns:xmpp-bind"
_STREAMS: Final = "http://etherx.jabber.org/streams"


@dataclass(slots=True)
class WebSocketNode:
    """``sessions`` are who is logged in now; ``closed`` counts the streams that clients have closed properly.

    ``paths`` holds what each connection asked for. Without a ``context`` there is no TLS.
    """

    context: ssl.SSLContext | None
    domain: str = DOMAIN
    port: int = 0
    paths: list[str] = field(default_factory=list)
    closed: int = 0
    received: list[etree._Element] = field(default_factory=list)
    sessions: dict[str, trio_websocket.WebSocketConnection] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"{'ws' if self.context is None else 'wss'}://{HOST}:{self.port}/xmpp?x=1"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(trio_websocket.serve_websocket, self._serve, HOST, 0, self.context)
            self.port = server.port
            task_status.started()

    async def ask(self, jid: str, server: str, *, id: str = "t1", sender: str = DOMAIN, domain: str = DOMAIN) -> None:
        """Send the request to a client that is logged in."""
        await self.sessions[jid].send_message(
            f"<iq xmlns='{_CLIENT}' type='set' id='{id}' from='{sender}' to='{jid}'>"
            f"<query xmlns='urn:xmpp:cxfr'><domain>{domain}</domain><server>{server}</server></query></iq>"
        )

    def answer(self, id: str) -> etree._Element | None:
        """Return a client's answer to the IQ of that id; ``None`` as long as it has not."""
        return next((each for each in self.received if each.get("id") == id and each.get("type") != "set"), None)

    async def _serve(self, request: trio_websocket.WebSocketRequest) -> None:
        socket = await request.accept(subprotocol="xmpp")
        self.paths.append(request.path)
        session = _Session(self, socket)
        try:
            while True:
                await session.take(etree.fromstring(await socket.get_message()))
        except trio_websocket.ConnectionClosed:
            pass
        finally:
            self.sessions = {jid: other for jid, other in self.sessions.items() if other is not socket}


class _Session:
    """One connection: open, log in with PLAIN, open again, bind."""

    def __init__(self, node: WebSocketNode, socket: trio_websocket.WebSocketConnection) -> None:
        self.node = node
        self.socket = socket
        self.user: str | None = None

    async def take(self, element: etree._Element) -> None:
        match str(element.tag):
            case tag if tag == f"{{{_FRAMING}}}open":
                await self._open()
            case tag if tag == f"{{{_FRAMING}}}close":
                self.node.closed += 1
                await self.socket.send_message(f'<close xmlns="{_FRAMING}" />')
                await self.socket.aclose()
            case tag if tag == f"{{{_SASL}}}auth":
                self.user = base64.b64decode(element.text or "").decode().split("\0")[1]
                await self.socket.send_message(f"<success xmlns='{_SASL}'/>")
            case _:
                self.node.received.append(element)
                if element.get("type") == "set":
                    await self._set(element)

    async def _open(self) -> None:
        await self.socket.send_message(
            f"<open xmlns='{_FRAMING}' from='{self.node.domain}' id='s{len(self.node.paths)}' version='1.0'/>"
        )
        offer = (
            f"<mechanisms xmlns='{_SASL}'><mechanism>PLAIN</mechanism></mechanisms>"
            if self.user is None
            else f"<bind xmlns='{_BIND}'/>"
        )
        await self.socket.send_message(f"<stream:features xmlns:stream='{_STREAMS}'>{offer}</stream:features>")

    async def _set(self, iq: etree._Element) -> None:
        payload = ""
        if iq.find(f"{{{_BIND}}}bind") is not None:
            resource = iq.findtext(f"{{{_BIND}}}bind/{{{_BIND}}}resource") or "r"
            jid = f"{self.user}@{self.node.domain}/{resource}"
            self.node.sessions[jid] = self.socket
            payload = f"<bind xmlns='{_BIND}'><jid>{jid}</jid></bind>"
        await self.socket.send_message(f"<iq xmlns='{_CLIENT}' type='result' id='{iq.get('id')}'>{payload}</iq>")


@asynccontextmanager
async def open_websocket_node(context: ssl.SSLContext | None, domain: str = DOMAIN) -> AsyncIterator[WebSocketNode]:
    node = WebSocketNode(context, domain)
    async with background(node.run):
        yield node
