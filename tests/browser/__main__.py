"""The story. Exit code 1 where the chat did not go on, took longer than ten seconds, or the page was loaded again."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import trio
from real.certs import Authority
from real.programs import DOMAIN, HOST
from real.prosody import ProsodyNode
from real.proxy import ProxyProcess, open_proxy

from browser.chromium import Tab, open_tab
from browser.site import Site, open_site

USERS: Final = ("juliet", "romeo")
MOST_SECONDS: Final = 10.0


async def chat(site: Site, tab: Tab, words: str) -> float:
    """Each writes to the other. Return when both have heard it."""
    for user in USERS:
        await tab.run(f"write('{user}', '{words}, says {user}')")
    heard = [
        await site.wait(event="heard", user=user, text=f"{words}, says {peer}") for user, peer in (USERS, USERS[::-1])
    ]
    return max(heard)


async def tell(proxy: ProxyProcess, site: Site, tab: Tab, pictures: Path) -> list[str]:
    """Play it, and return what went wrong."""
    for user in USERS:
        await site.wait(event="online", user=user)
    await chat(site, tab, "before the drain")
    rows = await proxy.show("sessions")
    print("sessions:", [(row["jid"], row["node"], row["transport"], row["tls"]) for row in rows])
    (node,) = {row["node"] for row in rows}  # of two Prosody servers, users on one hear nothing of the other
    await tab.screenshot(pictures / "before.png")
    began = trio.current_time()
    drained = await proxy.drain(node)
    back = max([await site.wait(2, event="online", user=user) for user in USERS])
    went_on = await chat(site, tab, "after the drain")
    await tab.screenshot(pictures / "after.png")
    rows = await proxy.show("sessions")
    print("sessions:", [(row["jid"], row["node"], row["transport"], row["tls"]) for row in rows])
    print("transfers:", [(row["jid"], row["rung"], row["outcome"]) for row in await proxy.show("transfers")])
    print(
        f"both online again {back - began:.1f} s after the drain began, the chat went on after {went_on - began:.1f} s"
    )
    loads = len(site.of(event="loaded"))
    return [
        text
        for text, wrong in {
            f"the drain ended with {drained.code}": drained.code,
            "the chat took too long to go on": went_on - began > MOST_SECONDS,
            f"the page was loaded {loads} times": loads != 1,
            "somebody is still on the drained node": node in {row["node"] for row in rows},
        }.items()
        if wrong
    ]


async def play(strophe: Path, pictures: Path) -> int:
    with tempfile.TemporaryDirectory(prefix="browser-") as name:
        folder = Path(name)
        certificate = Authority(folder / "ca").issue(DOMAIN, HOST)
        first, second = (ProsodyNode(folder / node, users=USERS) for node in ("node1", "node2"))
        files = {"": Path(__file__).with_name("page.html"), "strophe.esm.js": strophe}
        with open_site(files) as site:
            async with first, second:
                lines = [f"node{number} {HOST}:{node.port}" for number, node in enumerate((first, second), start=1)]
                options = ("--placement", "first-available", "--domain", DOMAIN)
                async with open_proxy(folder, lines, certificate, options=options) as proxy:
                    query = urlencode({"service": f"wss://{HOST}:{proxy.port}/xmpp-websocket", "domain": DOMAIN})
                    async with open_tab(folder, f"{site.url}/?{query}") as tab:
                        wrong = await tell(proxy, site, tab, pictures)
    print("FAILED: " + "; ".join(wrong) if wrong else "the same page, the same chat: it went on", flush=True)
    return 1 if wrong else 0


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 2:
        print("usage: python -m browser FOLDER-OF-NPM-PACKAGES FOLDER-FOR-PICTURES", file=sys.stderr)
        return 2
    strophe = Path(arguments[0]) / "strophe.js/dist/strophe.esm.js"
    return trio.run(play, strophe, Path(arguments[1]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
