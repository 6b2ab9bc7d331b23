"""A slixmpp client: ``plain`` as the library comes, ``reconnecting`` with XEP-0198, ``plugin`` with XEP-0051.

Each program here stays until it is ended. As whom it logs in, and where, is in its environment.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys

import slixmpp


async def main(kind: str) -> None:
    client = slixmpp.ClientXMPP(os.environ["CLIENT_JID"], os.environ["CLIENT_PASSWORD"])
    client.ssl_context.check_hostname = False
    client.ssl_context.verify_mode = ssl.CERT_NONE
    place = os.environ["CLIENT_HOST"], int(os.environ["CLIENT_PORT"])
    client.add_event_handler("session_start", lambda _: client.send_presence())
    if kind == "plugin":
        import cxfr_proxy.plugins.slixmpp  # noqa: F401  # makes the plugin known

        client.register_plugin("xep_0051")
    if kind == "reconnecting":
        client.register_plugin("xep_0198")

        async def again(_: object) -> None:
            await asyncio.sleep(0.3)
            if not (client.is_connected() or client.is_connecting()):
                client.connect(*place)

        client.add_event_handler("disconnected", again)
    client.connect(*place)
    await asyncio.Event().wait()


asyncio.run(main(sys.argv[1]))
