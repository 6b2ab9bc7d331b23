"""What trio-websocket's own server costs as a relay.

``python -m bench.trio_relay HOST PORT NODE_PORT [CERTIFICATE KEY]``. The least that relays XMPP over WebSocket
(RFC 7395) with it, in its favour: each message goes to the node as it is, but for ``<open/>``, and whatever the node
says at once is one message. It looks for no element's end and puts no namespace in. Only with clients that say one
thing at a time, as the bench's do, is that enough.
"""

from __future__ import annotations

import ssl
import sys

import trio
import trio_websocket

HEADER = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
    b"to='localhost' version='1.0'>"
)


async def serve(host: str, port: int, node_port: int, context: ssl.SSLContext | None) -> None:
    async def handle(request: trio_websocket.WebSocketRequest) -> None:
        client = await request.accept(subprotocol="xmpp")
        node = await trio.open_tcp_stream(host, node_port)
        async with node, trio.open_nursery() as nursery:
            nursery.start_soon(up, client, node)
            async for data in node:
                await client.send_message(data.decode())
            nursery.cancel_scope.cancel()

    async def up(client: trio_websocket.WebSocketConnection, node: trio.SocketStream) -> None:
        while True:
            message = str(await client.get_message())
            await node.send_all(HEADER if message.startswith("<open") else message.encode())

    await trio_websocket.serve_websocket(handle, host, port, context)


def main() -> None:
    host, port, node_port, *certificate = sys.argv[1:]
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
    trio.run(serve, host, int(port), int(node_port), context)


if __name__ == "__main__":
    main()
