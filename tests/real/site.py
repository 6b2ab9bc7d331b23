"""A real ejabberd cluster, a proxy in front of it, and clients of real libraries that chat across its nodes."""

from __future__ import annotations

import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from real.certs import Authority, Certificate
from real.clients.fleet import Fleet, Library, Tls, open_fleet
from real.ejabberd import EjabberdCluster
from real.hand_over import Loser, Party, who_lost
from real.programs import DOMAIN, HOST, free_port
from real.proxy import ProxyProcess, open_proxy
from real.tap import Tap, Unsealed, open_tap

EACH: Final = 8
"""Users of each library."""
_RESOURCE: Final = "r"
_NODES: Final = ("node1", "node2")
_NO_MORE_SECONDS: Final = 10.0
"""Without a message for so long, those that are missing will not come."""


@dataclass(frozen=True)
class Doors:
    """Listeners of the nodes at which a proxy that shows the certificate logs in as anybody; ``ports`` are theirs."""

    ports: tuple[int, ...]
    proxys: Certificate
    ca: Path
    pem: Path

    @classmethod
    def cut(cls, folder: Path, authority: Authority) -> Doors:
        own = Authority(folder / "proxys", "migration CA")
        nodes = authority.issue(DOMAIN)
        pem = folder / "node.pem"
        pem.write_bytes(nodes.certificate.read_bytes() + nodes.key.read_bytes())
        return cls((free_port(), free_port()), own.issue("cxfr-proxy", client=True), own.file, pem)

    @property
    def listeners(self) -> tuple[str, ...]:
        """For ejabberd's configuration, a text for each node."""
        return tuple(
            f"""\
  - port: {port}
    ip: "{HOST}"
    module: ejabberd_c2s
    tls: true
    tls_verify: true
    cafile: "{self.ca}"
    certfile: "{self.pem}"
"""
            for port in self.ports
        )

    def options(self, authority: Authority, ports: Iterable[int] | None = None) -> list[str]:
        """For the lines of nodes.txt. ``ports``: others, that lead to the listeners."""
        return [
            f"resume=shared migrate=external migrate-address={HOST}:{port} ca={authority.file}"
            for port in ports or self.ports
        ]

    def unsealed(self, authority: Authority) -> Unsealed:
        """For such taps."""
        node = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        node.load_cert_chain(self.pem)
        program = ssl.create_default_context(cafile=authority.file)
        program.load_cert_chain(self.proxys.certificate, self.proxys.key)
        return Unsealed(node, program, DOMAIN)

    @property
    def settings(self) -> list[str]:
        return ["--node-certificate", str(self.proxys.certificate), "--node-key", str(self.proxys.key)]


@dataclass
class Site:
    """A cluster, a proxy in front of it, clients of both libraries behind it. ``doors`` are the taps in front of the
    listeners at which the proxy logs in; ``simple`` are users whose clients have no XEP-0198."""

    cluster: EjabberdCluster
    proxy: ProxyProcess
    taps: list[Tap]
    fleets: dict[Library, Fleet]
    users: dict[Library, list[str]]
    doors: list[Tap]
    simple: frozenset[str] = frozenset()

    @property
    def everybody(self) -> list[str]:
        return [user for names in self.users.values() for user in names]

    async def connect(self) -> None:
        async with trio.open_nursery() as nursery:
            for library, fleet in self.fleets.items():
                nursery.start_soon(self._connect, fleet, self.users[library])

    async def _connect(self, fleet: Fleet, users: list[str]) -> None:
        for managed in (True, False):
            await fleet.connect(
                [user for user in users if (user not in self.simple) == managed],
                port=self.proxy.port,
                tls=Tls.STARTTLS,
                resource=_RESOURCE,
                stream_management=managed,
            )

    def reset(self) -> int:
        """Reset all connections between the proxy and the nodes; return how many."""
        return sum(tap.reset() for tap in (*self.taps, *self.doors))

    async def all_can_be_taken(self) -> None:
        """Wait until the proxy could take each session to the other node."""
        while True:
            done = [await self.proxy.command("drain", name, "--plan", "--json") for name in _NODES]
            plans = [json.loads(each.output) for each in done]
            if all(plan["migrate"] == plan["sessions"] for plan in plans):
                return
            await trio.sleep(0.1)

    async def chat(self, tag: str, *, count: int | None = None, rate: float = 20.0) -> None:
        """Everybody to everybody, over both nodes, each at ``rate`` a second; without ``count`` until :meth:`hush`."""
        async with trio.open_nursery() as nursery:
            for library, fleet in self.fleets.items():
                plan = {
                    user: [f"{other}@{DOMAIN}/{_RESOURCE}" for other in self.everybody if other != user]
                    for user in self.users[library]
                }
                nursery.start_soon(lambda f, p: f.send(p, tag=tag, rate=rate, count=count), fleet, plan)

    async def hush(self) -> None:
        for fleet in self.fleets.values():
            await fleet.stop_sending()

    async def homes(self) -> dict[str, str]:
        """The node of each user, as the proxy has it."""
        return {row["jid"].partition("@")[0]: row["node"] for row in await self.proxy.show("sessions") if row["jid"]}

    def connected_again(self, since: dict[Library, int]) -> dict[str, list[bool]]:
        """By user, whether each of its new connections was a resumption."""
        found: dict[str, list[bool]] = {}
        for library, fleet in self.fleets.items():
            for event in fleet.of("connected", since=since[library]):
                assert event["jid"] == f"{event['user']}@{DOMAIN}/{_RESOURCE}"
                found.setdefault(event["user"], []).append(event["resumed"])
        return found

    def marks(self) -> dict[Library, int]:
        return {library: len(fleet.events) for library, fleet in self.fleets.items()}

    async def assert_all_arrived_once(self, *, lost_by_nodes: int = 0) -> int:
        """Every message that a library has sent was delivered, and none twice; how many there were.

        A library that is given a message in the moment in which its connection ends may send it never.
        ``lost_by_nodes``: so many may be missing that nodes have lost between them. Who has lost one, the witnesses
        say (:func:`.hand_over.who_lost`).
        """

        missing = await self.missing()
        assert [key for key in self.arrived() if 0 in self._seen(key[0])] == [], "the taps have not seen it"
        lost = {key: await self._who_lost(*key) for key in missing}
        assert [key for key, loser in lost.items() if loser is Loser.PROXY] == []
        assert sum(loser is Loser.NODES for loser in lost.values()) <= lost_by_nodes, lost
        assert await self.doubled() == []
        return len(self.sent())

    def sent(self) -> set[tuple[str, str]]:
        """All messages that a library has sent: each by its id, and for whom it is."""
        return {
            (event["id"], event["to"].partition("@")[0]) for fleet in self.fleets.values() for event in fleet.of("sent")
        }

    def arrived(self) -> Counter[tuple[str, str]]:
        """How often each has come."""
        return Counter((event["id"], event["user"]) for fleet in self.fleets.values() for event in fleet.of("message"))

    async def missing(self) -> list[tuple[str, str]]:
        """Wait until all have come, or no more do. Return those that have not."""
        before, last = -1, trio.current_time()
        while not self.sent() <= set(self.arrived()) and trio.current_time() < last + _NO_MORE_SECONDS:
            if (now := self.arrived().total()) != before:
                before, last = now, trio.current_time()
            await trio.sleep(0.05)
        return sorted(self.sent() - set(self.arrived()))

    async def doubled(self) -> list[tuple[str, str]]:
        """Return those that have come more than once."""
        await trio.sleep(0.3)  # a second copy would come now
        return [key for key, times in self.arrived().items() if times > 1]

    async def _who_lost(self, message_id: str, user: str) -> Loser:
        body = message_id.replace("-", " ")
        sender, receiver = await self._party(body.split()[1]), await self._party(user)
        return who_lost(body, sender, receiver, [leg for tap in self.taps for leg in tap.connections])

    async def _party(self, user: str) -> Party:
        fleet = next(fleet for library, fleet in self.fleets.items() if user in self.users[library])
        return Party(f"{user}@{DOMAIN}/{_RESOURCE}", (await fleet.wire())[user])

    def _seen(self, message_id: str) -> tuple[int, int]:
        """How often that message went to a node, and came from one."""
        body = f">{message_id.replace('-', ' ')}</".encode()
        legs = [leg for tap in self.taps for leg in tap.connections]
        return sum(leg.up.count(body) for leg in legs), sum(leg.down.count(body) for leg in legs)


@asynccontextmanager
async def open_site(
    folder: Path,
    logs: Path,
    authority: Authority,
    *,
    options: str = "",
    migrates: bool = False,
    libraries: Iterable[Library] = Library,
) -> AsyncIterator[Site]:
    """``migrates``: the proxy has a certificate, by which it may take sessions from one node to the other, and speaks
    XEP-0198 with nodes in the place of clients without it, which every other one is."""
    users = {library: [f"{library.value[0]}{n}" for n in range(1, EACH + 1)] for library in libraries}
    names = [user for of_library in users.values() for user in of_library]
    async with AsyncExitStack() as stack:
        doors = Doors.cut(folder, authority) if migrates else None
        cluster = EjabberdCluster(
            folder / "cluster", users=[*names, "raw"], doors=doors.listeners if doors is not None else ()
        )
        await stack.enter_async_context(cluster)
        taps = [await stack.enter_async_context(open_tap(node.port)) for node in cluster.nodes]
        ports = doors.ports if doors is not None else ()
        door_taps = [await stack.enter_async_context(open_tap(port)) for port in ports]
        lines = [f"node{n} {tap.address} {options}" for n, tap in enumerate(taps, start=1)]
        settings: list[str] = []
        if doors is not None:
            lines = [
                f"{line} {door}"
                for line, door in zip(lines, doors.options(authority, [tap.port for tap in door_taps]), strict=True)
            ]
            settings = [*doors.settings, "--node-stream-management", "on"]
        proxy = await stack.enter_async_context(
            open_proxy(folder, lines, authority.issue(DOMAIN, HOST), options=settings)
        )
        fleets = {
            library: await stack.enter_async_context(open_fleet(library, logs / f"{library}.log")) for library in users
        }
        simple = frozenset(user for names in users.values() for user in names[::2]) if migrates else frozenset()
        yield Site(cluster, proxy, taps, fleets, users, door_taps, simple)
