"""The stories. Each is played on a stage of its own, and returns what has gone wrong, by the text that says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import trio
from real.balancers import balancers
from real.certs import Authority
from real.ejabberd import EjabberdCluster
from real.programs import DOMAIN, HOST
from real.prosody import ProsodyNode
from real.proxy import ProxyProcess, open_proxy
from real.site import Doors

from browser.chromium import Tab, open_tab
from browser.site import Site, converse, open_site, strophe

USERS: Final = ("juliet", "romeo")
MODULES: Final = ("blocklist", "carbons", "pep")
"""Of Prosody, as it comes. Converse opens no chat where the server has no list of blocked users."""
EJABBERDS_MODULES: Final = ("mod_blocking", "mod_carboncopy", "mod_privacy")
MOST_SECONDS: Final = 10.0
TOO_YOUNG_SECONDS: Final = 3.0
"""For which no session is taken anywhere after its login."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Two users on one of two servers, each in the tab of theirs, or in one together. ``servers`` do not know of each
    other, unless they are an ejabberd cluster."""

    servers: Sequence[ProsodyNode] | EjabberdCluster
    proxy: ProxyProcess
    site: Site
    tabs: Mapping[str, Tab]
    pictures: Path

    async def online(self, times: int = 1) -> float:
        """Return when both had come online for that time."""
        return max([await self.site.wait(times, event="online", user=user) for user in USERS])

    async def chat(self, words: str) -> float:
        """Each writes to the other. Return when both have heard it."""
        for user, tab in self.tabs.items():
            await tab.run(f"write('{words}, says {user}', '{user}')")
        heard = [
            await self.site.wait(event="heard", user=user, text=f"{words}, says {peer}")
            for user, peer in (USERS, USERS[::-1])
        ]
        return max(heard)

    async def picture(self, name: str) -> None:
        for tab, user in {tab: user for user, tab in self.tabs.items()}.items():
            await tab.screenshot(self.pictures / f"{name}-{user}.png")

    async def sessions(self) -> set[str]:
        """Print the sessions, and return the nodes that have them."""
        rows = await self.proxy.show("sessions")
        print("sessions:", [(row["jid"], row["node"], row["transport"], row["tls"]) for row in rows])
        return {str(row["node"]) for row in rows}

    @property
    def loads(self) -> int:
        """How often a page was loaded."""
        return len(self.site.of(event="loaded"))


async def _start_prosodys(folder: Path, stack: AsyncExitStack) -> tuple[list[ProsodyNode], list[str]]:
    """Start two servers; return them, and their lines for the proxy."""
    nodes = [
        await stack.enter_async_context(
            ProsodyNode(folder / name, users=USERS, stream_management=True, modules=MODULES)
        )
        for name in ("node1", "node2")
    ]
    return nodes, [f"node{number} {HOST}:{node.port}" for number, node in enumerate(nodes, start=1)]


@asynccontextmanager
async def open_stage(
    folder: Path,
    pictures: Path,
    files: Mapping[str, Path],
    *,
    tabs: int,
    behind_nginx: bool = False,
    shares_sessions: bool = False,
) -> AsyncIterator[Stage]:
    """``tabs``: one for both users, or two. ``behind_nginx``: which gives up what has been silent for a minute, as it
    does by default. ``shares_sessions``: the servers do, and let the proxy take sessions from one to the other."""
    authority = Authority(folder / "ca")
    certificate = authority.issue(DOMAIN, HOST)
    options = ["--placement", "first-available", "--domain", DOMAIN]
    if behind_nginx:
        options += ["--trusted-proxies", HOST, "--proxy-header", "optional"]
    async with AsyncExitStack() as stack:
        site = stack.enter_context(open_site(files))
        servers: Sequence[ProsodyNode] | EjabberdCluster
        if shares_sessions:
            doors = Doors.cut(folder, authority)
            cluster = EjabberdCluster(folder / "cluster", users=USERS, doors=doors.listeners, modules=EJABBERDS_MODULES)
            servers = await stack.enter_async_context(cluster)
            ports = [node.port for node in cluster.nodes]
            lines = [f"node{n} {HOST}:{ports[n - 1]} {doors.options(authority)[n - 1]}" for n in (1, 2)]
            options += doors.settings
        else:
            servers, lines = await _start_prosodys(folder, stack)
        proxy = await stack.enter_async_context(open_proxy(folder, lines, certificate, options=options))
        port = proxy.port
        if behind_nginx:
            balanced = await stack.enter_async_context(balancers(folder, proxy, certificate, read_timeout="60s"))
            port = balanced.nginx_web
        opened = []
        for user, peer in (USERS, USERS[::-1])[:tabs]:
            said = {"service": f"wss://{HOST}:{port}/xmpp-websocket", "domain": DOMAIN, "user": user, "peer": peer}
            home = folder / f"browser-{user}"
            home.mkdir()
            opened.append(await stack.enter_async_context(open_tab(home, f"{site.url}/?{urlencode(said)}")))
        yield Stage(servers, proxy, site, dict(zip(USERS, (opened * 2)[:2], strict=True)), pictures)


async def drain(stage: Stage) -> dict[str, bool]:
    """The node is drained under the chat, which goes on within ten seconds, on the same page."""
    await stage.online()
    await stage.chat("before the drain")
    (node,) = await stage.sessions()  # of two Prosody servers, users on one hear nothing of the other
    await stage.picture("before")
    began, loads = trio.current_time(), stage.loads
    drained = await stage.proxy.drain(node)
    back = await stage.online(2)
    went_on = await stage.chat("after the drain")
    await stage.picture("after")
    print("transfers:", [(row["jid"], row["rung"], row["outcome"]) for row in await stage.proxy.show("transfers")])
    print(
        f"both online again {back - began:.1f} s after the drain began, the chat went on after {went_on - began:.1f} s"
    )
    return {
        f"the drain ended with {drained.code}": drained.code != 0,
        "the chat took too long to go on": went_on - began > MOST_SECONDS,
        "a page was loaded again": stage.loads != loads,
        "somebody is still on the drained node": node in await stage.sessions(),
    }


async def unnoticed(stage: Stage) -> dict[str, bool]:
    """The node is drained under the chat by *migrate*, and stopped; the pages notice nothing."""
    assert isinstance(stage.servers, EjabberdCluster), "or sessions can't be taken"
    online = await stage.online()
    await stage.chat("before the drain")
    await stage.sessions()
    await stage.picture("before")
    await trio.sleep(max(0.0, online + TOO_YOUNG_SECONDS - trio.current_time()))
    drained = await stage.proxy.drain("node1")
    await stage.chat("after the drain")
    await stage.servers.nodes[0].stop()
    await stage.chat("after the node was stopped")
    await stage.picture("after")
    transfers = [(row["jid"], row["rung"], row["outcome"]) for row in await stage.proxy.show("transfers")]
    print("transfers:", transfers)
    return {
        f"the drain ended with {drained.code}": drained.code != 0,
        "a session was not taken": [row[1:] for row in transfers] != [("migrate", "moved")] * len(USERS),
        "a page has noticed": stage.site.of(event="offline") != [] or stage.loads != len(USERS),
        "somebody had to log in again": len(stage.site.of(event="online")) != len(USERS),
        "somebody is still on the drained node": await stage.sessions() != {"node2"},
    }


async def silence(stage: Stage, minutes: float) -> dict[str, bool]:
    """Nobody says a word for so long; then they go on."""
    await stage.online()
    await stage.chat("before the silence")
    await stage.sessions()
    await trio.sleep(60 * minutes)
    await stage.chat("after the silence")
    await stage.picture("silence")
    return {
        "somebody had to log in again": len(stage.site.of(event="online")) != len(USERS),
        "a page was loaded again": stage.loads != 1,
    }


async def play(story: str, packages: Path, folder: Path, pictures: Path, minutes: float) -> dict[str, bool]:
    """Play the story of that name."""
    match story:
        case "strophe":
            async with open_stage(folder, pictures, strophe(packages), tabs=1) as stage:
                return await drain(stage)
        case "converse":
            async with open_stage(folder, pictures, converse(packages), tabs=2) as stage:
                return await drain(stage)
        case "unnoticed":
            async with open_stage(folder, pictures, converse(packages), tabs=2, shares_sessions=True) as stage:
                return await unnoticed(stage)
        case _:
            async with open_stage(folder, pictures, strophe(packages), tabs=1, behind_nginx=True) as stage:
                return await silence(stage, minutes)


STORIES: Final[Sequence[str]] = ("strophe", "converse", "unnoticed", "silence")
