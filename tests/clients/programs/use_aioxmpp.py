"""An aioxmpp client, as the library comes: it reconnects by itself, with XEP-0198."""

from __future__ import annotations

import asyncio
import os

import aioxmpp
import aioxmpp.connector
import aioxmpp.node
import aioxmpp.security_layer


async def no_other_address(*args: object, **kwargs: object) -> list[object]:
    """Stands in for the look-ups in DNS to which the library turns when the address that it was given refuses."""
    return []


async def main() -> None:
    aioxmpp.node.discover_connectors = no_other_address
    client = aioxmpp.PresenceManagedClient(
        aioxmpp.JID.fromstr(os.environ["CLIENT_JID"]),
        aioxmpp.security_layer.make(os.environ["CLIENT_PASSWORD"], no_verify=True),
        override_peer=[
            (os.environ["CLIENT_HOST"], int(os.environ["CLIENT_PORT"]), aioxmpp.connector.STARTTLSConnector())
        ],
        max_initial_attempts=None,
    )
    client.presence = aioxmpp.PresenceState(True)
    await asyncio.Event().wait()


asyncio.run(main())
