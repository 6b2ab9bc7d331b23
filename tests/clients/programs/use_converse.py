"""Converse in headless Chromium, as it comes. The argument is npm's folder of packages."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from urllib.parse import urlencode

import trio
from browser.chromium import open_tab
from browser.site import converse, open_site


async def main() -> None:
    place = {name: os.environ[f"CLIENT_{name}"] for name in ("JID", "HOST", "PORT")}
    user, _, domain = place["JID"].partition("@")
    service = f"wss://{place['HOST']}:{place['PORT']}/xmpp-websocket"
    said = urlencode({"service": service, "domain": domain, "user": user, "peer": user})
    with trio.open_signal_receiver(signal.SIGTERM) as signals, open_site(converse(Path(sys.argv[1]))) as site:
        async with open_tab(Path.home(), f"{site.url}/?{said}"):
            async for _ in signals:
                return


trio.run(main)
