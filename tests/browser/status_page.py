"""The status page in headless Chromium, in front of a proxy with demo nodes and clients: what is done on it is done.

``PYTHONPATH=tests:tests/helpers python -m browser.status_page PICTURES`` plays it, and leaves pictures to look at. Exit
code 1 where it went wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Final

import trio
from e2e_proxy import Command, command, log_in, nodes_file, running
from waiting import PATIENCE_SECONDS

from browser.chromium import Tab, open_tab
from cxfr_proxy.admin.callers import Role
from cxfr_proxy.admin.http.tokens import make_token
from cxfr_proxy.demo.habits import ClientKind
from cxfr_proxy.demo.node import DemoNode

CLIENTS: Final = 60
RATE: Final = 3  # a second, so that there is a drain to be seen
LOOKS: Final = (("light", 1280, 900), ("dark", 1280, 900), ("light", 360, 740), ("dark", 360, 740))


class PageTab:
    """The page in a tab."""

    def __init__(self, tab: Tab) -> None:
        self._tab = tab

    async def shows(self, *words: str) -> str:
        """Wait until all of these are to be read; return all that is."""
        with trio.fail_after(PATIENCE_SECONDS):
            while True:
                text = str(await self._tab.value("document.body?.innerText"))
                if all(each in text for each in words):
                    return text
                await trio.sleep(0.1)

    async def press(self, where: str, words: str) -> None:
        """Press the first button there that begins with these words and is enabled, once there is one."""
        script = (
            f"(() => {{ const found = [...document.querySelectorAll({json.dumps(f'{where} button')})]"
            f".find((each) => each.textContent.startsWith({json.dumps(words)}) && !each.disabled);"
            " found?.click(); return found !== undefined; })()"
        )
        with trio.fail_after(PATIENCE_SECONDS):
            while not await self._tab.value(script):  # noqa: ASYNC110 - it happens in the browser
                await trio.sleep(0.1)

    async def pictures(self, folder: Path, name: str) -> None:
        """Take pictures by day and by night, on a desk and on a phone."""
        for scheme, width, height in LOOKS:
            await self._tab.look_as(scheme, width, height)
            await trio.sleep(0.5)  # it is laid out anew
            await self._tab.screenshot(folder / f"{name}-{scheme}-{width}.png")
        await self._tab.look_as(*LOOKS[0])


async def play(folder: Path, pictures: Path) -> None:
    """Log in by token; drain a node, stop that, go on, and undrain it: all of it on the page."""
    secret, token = make_token(Role.OPERATE, "alice")
    tokens = folder / "tokens.txt"
    tokens.touch(mode=0o600)
    tokens.write_text(f"{token}\n")
    nodes = [DemoNode("node1"), DemoNode("node2")]
    options = ("--starttls", "off", "--http", "127.0.0.1:0", "--http-tokens", str(tokens), "--transfer-rate", str(RATE))
    async with (
        running(*nodes) as nursery,
        command(nursery, folder, nodes_file(folder, nodes), "--workers", "2", *options) as proxy,
    ):
        [http] = await proxy.event("http-listening")
        kinds = [list(ClientKind)[number % len(ClientKind)] for number in range(CLIENTS)]
        await log_in(nursery, proxy.address, kinds, None)
        async with open_tab(folder, f"http://127.0.0.1:{http['port']}/") as tab:
            await on_the_page(PageTab(tab), tab, proxy, secret, pictures)


async def on_the_page(page: PageTab, tab: Tab, proxy: Command, secret: str, pictures: Path) -> None:
    await page.shows("Token needed")
    await page.pictures(pictures, "token")
    await tab.run(f"document.querySelector('dialog input').value = {json.dumps(secret)}")
    await page.press("dialog", "Connect")
    await page.shows("live", "alice (operate)", "node1", "node2", f"{CLIENTS} connections")
    assert secret not in str(await tab.value("location.href"))
    await page.press("#nodes", "Drain")
    await page.shows("Drain node1?", "They go to node2")
    await page.pictures(pictures, "question")
    await page.press("dialog", "Drain")
    await proxy.event("drain-begins")
    await page.shows("Under way", "to go.", "cxfr")
    await tab.run("document.querySelector('.who summary').click()")
    await page.shows("@localhost/demo")
    await page.pictures(pictures, "drain")
    await page.press("#cards", "Abort")
    await page.shows("Stop the drain of node1?")
    await page.press("dialog", "Stop the drain")
    await proxy.event("drain-aborted")
    await page.shows("drain stopped", "Nothing more is tried")
    await page.press("#nodes", "Undrain")
    await page.press("dialog", "Undrain")
    await proxy.event("undrain")
    await page.shows("node1 takes clients again")
    orders = [row["details"] for row in await proxy.show("events") if row["event"] == "order"]
    assert [str(details).split()[0] for details in orders] == [
        f"command={name}" for name in ("drain", "abort", "undrain")
    ], orders
    assert all("by=alice" in str(details) for details in orders)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m browser.status_page", description="The status page in Chromium.")
    parser.add_argument("pictures", type=Path, help="a folder for screenshots")
    pictures: Path = parser.parse_args().pictures
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="browser-") as folder:
        trio.run(play, Path(folder), pictures)
    print(f"what was done on the page was done; look at {pictures}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
