"""The status page in headless Chromium, in front of a real proxy with demo nodes and clients: what is done on it is
done, and what happens to the proxy is seen.

``PYTHONPATH=tests:tests/helpers python -m browser.status_page PICTURES`` plays all stories, and leaves pictures to look
at. Exit code 1 where one went wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

import trio
from e2e_proxy import Command, command, log_in, nodes_file, running
from ports import free_port
from waiting import PATIENCE_SECONDS

from browser.chromium import Tab, open_tab
from cxfr_proxy.admin.commands.callers import Role
from cxfr_proxy.admin.http.tokens import make_token
from cxfr_proxy.demo.habits import ClientKind
from cxfr_proxy.demo.node import DemoNode

CLIENTS: Final = 60
RATE: Final = 3  # a second, so that there is something to be seen
LOOKS: Final = (("light", 1280, 900), ("dark", 1280, 900), ("light", 360, 740), ("dark", 360, 740))
HOSTILE: Final = "<img src=x onerror=\"document.title='hacked'\">\u202egro.elpmaxe"
LONG: Final = "a-node-whose-name-says-in-which-room-rack-and-row-it-stands"


class PageTab:
    """The page in a tab."""

    def __init__(self, tab: Tab, pictures: Path) -> None:
        self.tab = tab
        self._pictures = pictures

    async def shows(self, *words: str) -> str:
        """Wait until all of these are to be read; return all that is."""
        text = ""
        with trio.move_on_after(PATIENCE_SECONDS):
            while True:
                text = str(await self.tab.value("document.body?.innerText"))
                if all(each in text for each in words):
                    return text
                await trio.sleep(0.1)
        raise AssertionError(f"{[each for each in words if each not in text]} were not shown, but\n{text}")

    async def hides(self, where: str, words: str) -> None:
        """Wait until that is not to be read there."""
        script = f"document.querySelector({json.dumps(where)}).innerText"
        with trio.fail_after(PATIENCE_SECONDS):
            while words in str(await self.tab.value(script)):  # noqa: ASYNC110 - it happens in the browser
                await trio.sleep(0.1)

    async def press(self, where: str, words: str) -> None:
        """Press the first button there that begins with these words and is enabled, once there is one."""
        script = (
            f"(() => {{ const found = [...document.querySelectorAll({json.dumps(f'{where} button')})]"
            f".find((each) => each.textContent.startsWith({json.dumps(words)}) && !each.disabled);"
            " found?.click(); return found !== undefined; })()"
        )
        with trio.fail_after(PATIENCE_SECONDS):
            while not await self.tab.value(script):  # noqa: ASYNC110 - it happens in the browser
                await trio.sleep(0.1)

    async def enter(self, secret: str) -> None:
        """Enter a token, which has to be good."""
        await self.shows("Token needed")
        await self.tab.run(f"document.querySelector('dialog input').value = {json.dumps(secret)}")
        await self.press("dialog", "Connect")
        await self.shows("live")
        assert secret not in str(await self.tab.value("location.href"))

    async def focus_on(self, label: str) -> None:
        """Go from part to part by the Tab key until one of that name or text has the focus."""
        for _ in range(100):
            await self.tab.press_key("Tab")
            script = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"
            if str(await self.tab.value(script)) == label:
                return
        raise AssertionError(f"the Tab key does not lead to {label!r}")

    async def fits(self) -> None:
        """Nothing is wider than the window, on a phone either."""
        for look in LOOKS:
            await self.tab.look_as(*look)
            await trio.sleep(0.2)  # it is laid out anew
            wide = await self.tab.value("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{wide} pixels too wide, as {look}"
        await self.tab.look_as(*LOOKS[0])

    async def pictures(self, name: str) -> None:
        """Take pictures by day and by night, on a desk and on a phone."""
        for scheme, width, height in LOOKS:
            await self.tab.look_as(scheme, width, height)
            await trio.sleep(0.5)  # it is laid out anew
            await self.tab.screenshot(self._pictures / f"{name}-{scheme}-{width}.png")
        await self.tab.look_as(*LOOKS[0])


@dataclass(frozen=True)
class Scene:
    page: PageTab
    proxy: Command
    nursery: trio.Nursery
    tokens: Path

    async def orders(self) -> list[str]:
        """The orders that somebody called alice has given."""
        rows = [str(row["details"]) for row in await self.proxy.show("events") if row["event"] == "order"]
        return [row.split()[0].removeprefix("command=") for row in rows if "by=alice" in row]


Story = Callable[[Path, Path], Awaitable[None]]


@asynccontextmanager
async def scene(
    folder: Path, pictures: Path, nodes: Sequence[DemoNode], *options: str, line: str = "", http: int = 0
) -> AsyncIterator[Scene]:
    """A proxy in front of running nodes, and the page of somebody who may give orders. ``line``: one more line in the
    list of nodes; ``http``: the port, 0 for any."""
    secret, token = make_token(Role.OPERATE, "alice")
    tokens = folder / "tokens.txt"
    tokens.touch(mode=0o600)
    tokens.write_text(f"{token}\n")
    given = ("--starttls", "off", "--http", f"127.0.0.1:{http}", "--http-tokens", str(tokens))
    rate = ("--transfer-rate", str(RATE))
    unchecked = {each.name: "check=none" for each in nodes}
    async with running(*nodes) as nursery:
        listed = nodes_file(folder, nodes, **unchecked)
        with listed.open("a") as file:
            file.write(line)
        async with command(nursery, folder, listed, *given, *rate, *options) as proxy:
            [listening] = await proxy.event("http-listening")
            async with open_tab(folder, f"http://127.0.0.1:{listening['port']}/") as tab:
                page = PageTab(tab, pictures)
                await page.shows("Token needed")
                await page.pictures("token")
                await page.enter(secret)
                yield Scene(page, proxy, nursery, tokens)


async def clients_of(it: Scene, count: int = CLIENTS, resource: str = "demo") -> None:
    kinds = [list(ClientKind)[number % len(ClientKind)] for number in range(count)]
    await log_in(it.nursery, it.proxy.address, kinds, None, resource=escape(resource))


async def drain(folder: Path, pictures: Path) -> None:
    """Drain a node, stop that, go on, and undrain it: all of it on the page, and some of it by the keyboard."""
    nodes = [DemoNode("node1"), DemoNode("node2")]
    async with scene(folder, pictures, nodes, "--workers", "2") as it:
        page = it.page
        await clients_of(it, resource=HOSTILE)
        await page.shows("live", "alice (operate)", "node1", "node2", f"{CLIENTS} connections")
        await page.focus_on("Drain node1")
        await page.tab.press_key("Enter")
        await page.shows("Drain node1?", "They go to node2")
        await page.tab.press_key("Escape")
        focus = await page.tab.value("document.activeElement.getAttribute('aria-label')")
        assert focus == "Drain node1", f"behind a dialog the focus is where it was, not on {focus}"
        await page.tab.press_key("Enter")
        await page.shows("Drain node1?", "They go to node2")
        await page.pictures("question")
        await page.press("dialog", "Drain")
        await it.proxy.event("drain-begins")
        await page.shows("Under way", "to go.", "cxfr")
        await page.tab.run("document.querySelector('.who summary').click()")
        await page.shows("@localhost/<img src=x", "\\u202egro")
        await page.pictures("drain")
        await page.fits()
        await page.press("#cards", "Abort")
        await page.shows("Stop the drain of node1?")
        await page.press("dialog", "Stop the drain")
        await it.proxy.event("drain-aborted")
        await page.shows("drain stopped", "Nothing more is tried")
        await page.press("#nodes", "Undrain")
        await page.press("dialog", "Undrain")
        await it.proxy.event("undrain")
        await page.shows("node1 takes clients again")
        assert await it.orders() == ["drain", "abort", "undrain"]
        assert await page.tab.value("document.title") != "hacked"


async def roll(folder: Path, pictures: Path) -> None:
    """A rolling restart that somebody has begun on the command line, watched, and given up on the page."""
    names = ("node1", "node2", "node3")
    async with scene(folder, pictures, [DemoNode(name) for name in names], "--workers", "2") as it:
        await clients_of(it)
        it.nursery.start_soon(it.proxy.say, "roll", *names, "--run", "sleep 2")
        await it.page.shows("Rolling restart", "0 of 3 nodes restarted. It is the turn of node1.", "is being drained")
        await it.page.pictures("roll")
        await it.page.shows("1 of 3 nodes restarted. It is the turn of node2.")
        await it.page.pictures("roll-second")
        await it.page.fits()
        await it.page.press("#cards", "Give it up")
        await it.page.pictures("roll-question")
        await it.page.press("dialog", "Give")
        await it.proxy.event("roll-ends")
        assert await it.orders() == ["roll"]


async def rebalance(folder: Path, pictures: Path) -> None:
    """A node that comes back is filled; stopped on the page."""
    async with scene(folder, pictures, [DemoNode("node1"), DemoNode("node2")], "--workers", "2") as it:
        assert (await it.proxy.say("drain", "node2")).code == 0
        await clients_of(it)
        assert (await it.proxy.say("undrain", "node2", "--no-rebalance")).code == 0
        assert (await it.proxy.say("rebalance")).code == 0
        await it.page.shows("Rebalance", "sessions left to move", "moved", " in, ")
        await it.page.pictures("rebalance")
        await it.page.fits()
        await it.page.press("#cards", "Stop")
        await it.page.press("dialog", "Stop")
        await it.proxy.event("rebalance-ends")
        await it.page.shows("the rebalance is stopped")
        assert await it.orders() == ["rebalance"]


async def upgrade(folder: Path, pictures: Path) -> None:
    """Another process takes the place of the proxy: the page goes on with that one, and says so."""
    async with scene(folder, pictures, [DemoNode("node1"), DemoNode("node2")], "--workers", "2") as it:
        await clients_of(it)
        await it.page.shows(f"{CLIENTS} connections")
        it.proxy.process.send_signal(signal.SIGUSR2)
        try:
            await it.page.shows("Another process of the proxy answers now")
            await it.page.shows("live", "Upgrade", "still with the process before this one")
            await it.page.pictures("upgrade")
            await it.proxy.event("upgrade-ends")
            await it.page.shows("serving", f"{CLIENTS} connections")
            await it.page.press("#nodes", "Drain")
            await it.page.press("dialog", "Drain")
            await it.page.shows("Under way")
        finally:
            for event in await it.proxy.event("upgrade-begins"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(event["pid"], signal.SIGKILL)


async def many(folder: Path, pictures: Path) -> None:
    """Twenty nodes with long names, of which one can't be reached."""
    nodes = [DemoNode(f"{LONG}-{number}") for number in range(19)]
    gone = f"gone 127.0.0.1:{free_port()} fall=1 inter=1s weight=7\n"
    async with scene(folder, pictures, nodes, "--workers", "2", line=gone) as it:
        await clients_of(it)
        await it.page.shows("1 down", f"{LONG}-18", "Need attention 1", "Connection refused", "60 connections")
        await it.page.pictures("many")
        await it.page.fits()
        await it.page.tab.run("document.querySelector('input[value=attention]').click()")
        await it.page.hides("#nodes", LONG)
        await it.page.shows("gone", "weight 7", "checks failed")
        await it.page.pictures("attention")
        assert "1 down" in str(await it.page.tab.value("document.title"))


async def trouble(folder: Path, pictures: Path) -> None:
    """The proxy is killed and comes back; then the token is taken away."""
    nodes, http = [DemoNode("node1")], free_port()
    async with scene(folder, pictures, nodes, "--workers", "1", http=http) as it:
        await it.page.shows("live", "node1")
        it.proxy.process.send_signal(signal.SIGKILL)
        await it.proxy.process.wait()
        await it.page.shows("reconnecting", "Not connected: this is how it was at")
        await it.page.pictures("gone")
        again = ("--starttls", "off", "--http", f"127.0.0.1:{http}", "--http-tokens", str(it.tokens), "--workers", "1")
        async with command(it.nursery, folder, it.proxy.nodes, *again):
            await it.page.shows("live", "Another process of the proxy answers now")
            it.tokens.write_text("")
            await it.page.shows("Token needed", "this token is not known here")
            await it.page.pictures("token-gone")


STORIES: Final[Mapping[str, Story]] = {each.__name__: each for each in (drain, roll, rebalance, upgrade, many, trouble)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m browser.status_page", description="The status page in Chromium.")
    parser.add_argument("pictures", type=Path, help="a folder for screenshots")
    parser.add_argument("--stories", nargs="+", choices=STORIES, default=[*STORIES])
    given = parser.parse_args()
    for name in given.stories:
        print(f"== {name}", flush=True)
        pictures: Path = given.pictures / name
        pictures.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="browser-") as folder:
            trio.run(STORIES[name], Path(folder), pictures)
    print(f"what was done on the page was done; look at {given.pictures}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
