"""A web client for the end-to-end tests: by trio-websocket, or by the byte where no library would do what is wanted."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio_websocket
from e2e_proxy import DOMAIN, PATIENCE_SECONDS
from websocket_client import FRAMING, PONG, Browser, Heard, masked, text

from cxfr_proxy.demo.browser import PATH
from cxfr_proxy.demo.wire import HostPort
from cxfr_proxy.xmpp import names

OPEN = f"<open xmlns='{FRAMING}' to='{DOMAIN}' version='1.0'/>"
CLOSE = f'<close xmlns="{FRAMING}" />'
"""Exactly what strophe.js knows the end by."""
KEY = base64.b64encode(bytes(16)).decode()


def request(path: str = PATH, **changes: str | None) -> bytes:
    """A request for a WebSocket, with some headers changed, added or (``None``) left out."""
    headers: dict[str, str | None] = {
        "Host": DOMAIN,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "xmpp",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    lines = [f"{name}: {value}\r\n" for name, value in headers.items() if value is not None]
    return f"GET {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode()


def _to_echo(body: str) -> str:
    return f"<message xmlns='{names.CLIENT}' to='echo.{DOMAIN}' type='chat'><body>{body}</body></message>"


class Page:
    """A web client. What it reads is one message after the other."""

    def __init__(self, socket: trio_websocket.WebSocketConnection) -> None:
        self.socket = socket

    async def send(self, message: str) -> None:
        await self.socket.send_message(message)

    async def read(self) -> str:
        with trio.fail_after(PATIENCE_SECONDS):
            message = await self.socket.get_message()
        assert isinstance(message, str)
        return message

    async def open(self) -> str:
        """Open a stream, or open it anew. Return the features."""
        await self.send(OPEN)
        assert (await self.read()).startswith("<open ")
        return await self.read()

    async def log_in(self, user: str = "romeo") -> str:
        """Log in and bind. Return the features before the login."""
        features = await self.open()
        token = base64.b64encode(f"\0{user}\0secret".encode()).decode()
        await self.send(f"<auth xmlns='{names.SASL}' mechanism='PLAIN'>{token}</auth>")
        assert "<success " in await self.read()
        await self.open()
        await self.send(
            f"<iq xmlns='{names.CLIENT}' type='set' id='b'>"
            f"<bind xmlns='{names.BIND}'><resource>r</resource></bind></iq>"
        )
        assert f"{user}@{DOMAIN}/r" in await self.read()
        return features

    async def echo(self, body: str, user: str = "romeo") -> None:
        """Say something to the node's echo, and hear it again."""
        await self.send(_to_echo(body))
        answer = await self.read()
        assert f"<body>{body}</body>" in answer
        assert f'xmlns="{names.CLIENT}"' in answer.replace("'", '"')

    async def closed(self) -> int | None:
        """Wait for the end. Return the code of the peer's close frame; ``None``: there was none."""
        with trio.fail_after(PATIENCE_SECONDS):
            try:
                message = await self.socket.get_message()
            except trio_websocket.ConnectionClosed as exc:
                return None if exc.reason is None or exc.reason.code == 1006 else exc.reason.code
        raise AssertionError(f"it is not closed: {message!r}")


@asynccontextmanager
async def page(address: HostPort, tls: ssl.SSLContext | None = None, origin: str | None = None) -> AsyncIterator[Page]:
    """A web client at that address. Its connection is cut in the end if it is still there."""
    tcp = await trio.open_tcp_stream(*address)
    raw = trio.SSLStream(tcp, tls, server_hostname=DOMAIN) if tls is not None else tcp
    headers = [(b"Origin", origin.encode())] if origin is not None else None
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            with trio.fail_after(PATIENCE_SECONDS):
                socket = await trio_websocket.wrap_client_stream(
                    nursery, raw, DOMAIN, PATH, subprotocols=["xmpp"], extra_headers=headers
                )
            yield Page(socket)
        except Exception as exc:
            failure = exc  # as it is, not in a group
        await trio.aclose_forcefully(raw)
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


class RawPage:
    """A web client by the byte."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._browser = Browser()
        self._read = 0
        self.ended = False

    @property
    def heard(self) -> Heard:
        return self._browser.heard

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def receive(self) -> bytes:
        with trio.fail_after(PATIENCE_SECONDS):
            try:
                return bytes(await self.stream.receive_some())
            except trio.BrokenResourceError:
                return b""

    async def everything(self) -> bytes:
        """All that comes until the peer closes."""
        received = b""
        while data := await self.receive():
            received += data
        return received

    async def upgrade(self, behind: bytes = b"", asking: bytes = request()) -> None:
        """Ask for a WebSocket, with some bytes right behind the request."""
        await self.send(asking + behind)
        received = b""
        while b"\r\n\r\n" not in received:
            data = await self.receive()
            assert data, received
            received += data
        head, _, rest = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        self._browser.receive(rest)

    async def hear(self) -> Heard:
        """Wait for more, and return all that was heard."""
        data = await self.receive()
        if data:
            self._browser.receive(data)
        else:
            self.ended = True
        return self.heard

    async def message(self) -> str:
        """The next message."""
        while len(self.heard.messages) <= self._read:
            assert not self.ended, self.heard
            await self.hear()
        self._read += 1
        return self.heard.messages[self._read - 1]

    async def hear_all(self) -> Heard:
        while not self.ended:
            await self.hear()
        return self.heard

    async def answer_pings(self, count: int) -> None:
        """Do nothing else, until there were so many."""
        for number in range(count):
            while len(self.heard.pings) <= number:
                assert not self.ended, self.heard
                await self.hear()
            await self.send(masked(PONG, self.heard.pings[number]))

    async def say(self, message: str) -> None:
        await self.send(text(message.encode()))

    async def echo(self, body: str) -> None:
        """Say something to the node's echo, and hear it again."""
        await self.say(_to_echo(body))
        assert f"<body>{body}</body>" in await self.message()

    async def log_in(self, user: str = "romeo") -> None:
        for _ in range(2):
            await self.say(OPEN)
            assert (await self.message()).startswith("<open ")
            await self.message()
            if _ == 0:
                token = base64.b64encode(f"\0{user}\0secret".encode()).decode()
                await self.say(f"<auth xmlns='{names.SASL}' mechanism='PLAIN'>{token}</auth>")
                assert "<success " in await self.message()
        await self.say(f"<iq xmlns='{names.CLIENT}' type='set' id='b'><bind xmlns='{names.BIND}'/></iq>")
        assert f"{user}@{DOMAIN}/" in await self.message()


@asynccontextmanager
async def raw_page(
    address: HostPort, tls: ssl.SSLContext | None = None, *, source: str | None = None
) -> AsyncIterator[RawPage]:
    """``source``: the client's own address; ``None``: any."""
    tcp = await trio.open_tcp_stream(*address, local_address=source)
    async with (
        trio.SSLStream(tcp, tls, server_hostname=DOMAIN, https_compatible=True) if tls is not None else tcp as raw
    ):
        yield RawPage(raw)
