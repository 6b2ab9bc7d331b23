"""One run: all kinds of client at once through one proxy, one trigger, and the books judged by kind.

1. The nodes file has node1 only. The movers log in, so all are on node1; then node2 is added and the file read again.
2. Everybody writes to the witnesses and is written to. In the middle of it the *trigger*.
3. When the proxy says that all movers are on node2, the traffic goes on for a moment, stops and settles.

Clients are sent to the proxy itself (``public=`` and ``public-ws=`` lead there), so that all they write passes a tap
in front of each node: what is missing at the end can be looked for there (:meth:`Run.trace`).
"""

from __future__ import annotations

import math
import re
import ssl
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import trio
from real.certs import Authority
from real.programs import DOMAIN, HOST, Background, background, free_port
from real.proxy import ProxyProcess, open_proxy
from real.tap import Tap, open_tap
from waiting import patient_line

from cxfr_proxy.demo.account import MessageCounts, Numbered, out_of_order
from cxfr_proxy.demo.browser import PATH
from cxfr_proxy.demo.habits import ClientKind, Life, Security
from cxfr_proxy.demo.wire import HostPort
from matrix.people import WITNESS, Ledger, Mover, Witness, judge_pair, mover
from matrix.sites import Nodes, Site

KINDS: Final = (
    ClientKind.CXFR,
    ClientKind.CXFR_RESUMING,
    ClientKind.CXFR_SILENT,
    ClientKind.CXFR_SILENT_RESUMING,
    ClientKind.SEE_OTHER_HOST,
    ClientKind.SEE_OTHER_HOST_RESUMING,
    ClientKind.PLAIN,
    ClientKind.STREAM_MANAGEMENT,
    ClientKind.WEBSOCKET,
    ClientKind.WEBSOCKET_RESUMING,
)
_CLUSTERS: Final = (Nodes.EJABBERD, Nodes.MIGRATING)
"""Where nodes hand messages on to each other."""
_PATIENT: Final = ("--cxfr-timeout", "60s", "--see-other-host-timeout", "60s", "--node-close-timeout", "60s")
"""All of these clients and nodes do what they are asked to, on a busy machine too. One that was given up might get, or
send, a second time what it had not acknowledged."""
EACH: Final = 6
"""Clients of each kind."""
AHEAD_SECONDS: Final = 0.7
"""Traffic before the trigger, and after all have moved."""
PATIENCE_SECONDS: Final = 120.0
"""For what takes a second on an idle machine."""
SILENT_SECONDS: Final = 20.0
"""Nothing more comes after so long without anything."""
LINGER_SECONDS: Final = 0.3
"""After everything has settled: a second copy would come now."""


class Trigger(StrEnum):
    DRAIN = "drain"
    REMOVED = "line removed"
    SIGTERM = "SIGTERM"
    KILL = "kill -9"


@dataclass(frozen=True, slots=True)
class Cell:
    """All clients of one kind in one run. ``faults`` are their complaints, of logins that failed above all."""

    nodes: Nodes
    trigger: Trigger
    kind: ClientKind
    clients: int
    tally: MessageCounts
    by_rung: Mapping[str, MessageCounts]
    """The same by the rung that moved each client."""
    resumed: int
    faults: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()
    """The taps' records of each message that is not as it should be."""
    lost_within: int = 0
    """Of those that are lost, how many no node has handed out: no tap has seen them, so they are the cluster's loss."""
    disordered_within: int = 0
    """Of those that came out of order, how many the nodes have handed out so."""
    disturbed: tuple[str, ...] = ()
    """Clients whose sessions the proxy says that it has taken, and that have noticed it."""


def users(each: int = EACH) -> list[str]:
    """Everybody who has to be able to log in."""
    return [WITNESS, *(user for kind in KINDS for user in _users_of(kind, each))]


def _users_of(kind: ClientKind, each: int) -> list[str]:
    return [f"{kind.name.replace('_', '').lower()}{number}" for number in range(1, each + 1)]


@dataclass
class Run:
    """See the module."""

    nodes: Nodes
    trigger: Trigger
    site: Site
    folder: Path
    authority: Authority
    each: int = EACH
    options: Sequence[str] = ()
    """More settings of the proxy's."""
    taps: list[Tap] = field(default_factory=list)
    movers: list[Mover] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)

    async def play(self) -> list[Cell]:
        """The cells of this run."""
        await self.site.refresh()
        self.folder.mkdir(parents=True)
        async with AsyncExitStack() as stack:
            for address in self.site.addresses:
                self.taps.append(await stack.enter_async_context(open_tap(address.port, node_host=address.host)))
            port = free_port()
            options = await self._open_doors(stack)
            self._lines = [
                f"node{n} {tap.address} public={HOST}:{port} public-ws=wss://{HOST}:{port}{PATH} {option}"
                for n, (tap, option) in enumerate(zip(self.taps, options, strict=False), start=1)
            ]
            proxy = await stack.enter_async_context(
                open_proxy(
                    self.folder,
                    self._lines[:1],
                    self.authority.issue(DOMAIN, HOST),
                    port=port,
                    options=[
                        *("--cxfr-allow", "resource=cxfr"),
                        *_PATIENT,
                        *(self._migrating if self.nodes is Nodes.MIGRATING else ("--transfer-rate", "1000")),
                        *self.options,
                    ],
                )
            )
            await stack.enter_async_context(background(self._live(proxy)))
            await self._tell(proxy)
            rows = await proxy.show("transfers")
        return [self._cell(kind, rows) for kind in KINDS]

    @property
    def _migrating(self) -> Sequence[str]:
        """Settings of a proxy that may take all sessions, also of clients without XEP-0198: by and by, since a tap with
        TLS takes its time."""
        return (
            *self.site.settings,
            *("--node-stream-management", "on"),
            *("--transfer-rate", "20", "--migrate-timeout", "60s"),
        )

    async def _open_doors(self, stack: AsyncExitStack) -> Sequence[str]:
        """The options of the nodes' lines. Where the proxy may take sessions there are taps as well, behind the others
        in ``taps``."""
        if self.nodes is not Nodes.MIGRATING or self.site.doors is None:
            return self.site.options
        doors, authority = self.site.doors
        tls = doors.unsealed(authority)
        taps = [await stack.enter_async_context(open_tap(port, tls=tls)) for port in doors.ports]
        self.taps += taps
        return doors.options(authority, [tap.port for tap in taps])

    def _live(self, proxy: ProxyProcess) -> Background:
        """The witnesses and the movers; started when all are bound."""
        witnesses = [Witness(self.ledger, self.site.addresses[index]) for index in self.site.witnessed]
        context = ssl.create_default_context(cafile=str(self.authority.file))
        self.movers = [
            mover(
                user,
                kind,
                HostPort(proxy.host, proxy.port),
                tls=context,
                security=Security.STARTTLS if index % 2 else Security.DIRECT_TLS,
            )
            for kind in KINDS
            for index, user in enumerate(_users_of(kind, self.each))
        ]

        async def live(*, task_status: trio.TaskStatus[None]) -> None:
            async with trio.open_nursery() as nursery:
                with trio.fail_after(PATIENCE_SECONDS):
                    async with trio.open_nursery() as starting:
                        for witness in witnesses:
                            starting.start_soon(nursery.start, witness.run)
                    async with trio.open_nursery() as starting:
                        for each in self.movers:
                            starting.start_soon(nursery.start, each.run)
                nursery.start_soon(self.ledger.push_forever)
                task_status.started()

        return live

    async def _tell(self, proxy: ProxyProcess) -> None:
        assert set(await self._homes(proxy)) == {"node1"}
        await self._rewrite(proxy, self._lines)
        await trio.sleep(AHEAD_SECONDS)
        await self._pull(proxy)
        await self._moved(proxy)
        await trio.sleep(AHEAD_SECONDS)
        for each in self.movers:
            each.quiet()
        self.ledger.quiet()
        await self._settled()
        await trio.sleep(LINGER_SECONDS)

    async def _settled(self) -> None:
        """Wait until nothing is on its way, or nothing has come for so long that it is lost: then the books show it. A
        cluster may lose what is on its way within it, and a killed node more."""
        seen, due = -1, math.inf
        while not (self.ledger.settled and all(each.account.settled for each in self.movers)):
            accounts = [each.account for each in self.movers] + [each.account for each in self.ledger.contacts.values()]
            came = sum(len(each.arrived) + each.resent for each in accounts)
            if came != seen:
                seen, due = came, trio.current_time() + SILENT_SECONDS
            if trio.current_time() >= due:
                return
            await trio.sleep(0.02)

    async def _pull(self, proxy: ProxyProcess) -> None:
        match self.trigger:
            case Trigger.DRAIN:
                done = await proxy.drain("node1", wait=True)
                assert done.code == 0, done.output
            case Trigger.REMOVED:
                await self._rewrite(proxy, self._lines[1:])
            case Trigger.SIGTERM:
                await self.site.terminate()
            case Trigger.KILL:
                await self.site.kill()

    async def _rewrite(self, proxy: ProxyProcess, lines: Sequence[str]) -> None:
        proxy.nodes_file.write_text("".join(f"{patient_line(line)}\n" for line in lines), "utf-8")
        done = await proxy.command("reload")
        assert done.code == 0, done.output

    async def _homes(self, proxy: ProxyProcess) -> list[str]:
        return [str(row["node"]) for row in await proxy.show("sessions") if row["jid"] is not None]

    async def _moved(self, proxy: ProxyProcess) -> None:
        """Until every mover has come back, or did not have to, and all are on node2."""
        with trio.move_on_after(PATIENCE_SECONDS):
            while True:
                back = all(
                    (each.logins > 1 or self._may_be_taken()) and each.life is Life.BOUND for each in self.movers
                )
                if back and await self._homes(proxy) == ["node2"] * len(self.movers):
                    return
                await trio.sleep(0.05)
        away = [(each.bare_jid, str(each.life), each.faults[-3:]) for each in self.movers if each.logins < 2]
        raise AssertionError(f"not all moved: {away}, {Counter(await self._homes(proxy))}")

    def _may_be_taken(self) -> bool:
        """Whether the proxy could take sessions to the other node, where the node lives."""
        gently = self.trigger in (Trigger.DRAIN, Trigger.REMOVED)
        return self.nodes is Nodes.MIGRATING and gently

    # --- judging

    def _cell(self, kind: ClientKind, rows: Sequence[dict[str, object]]) -> Cell:
        own = [each for each in self.movers if each.kind is kind]
        names = {each.bare_jid for each in own}
        moved = {jid: row for row in rows if (jid := str(row["jid"]).partition("/")[0]) in names}
        tallies = {each: judge_pair(each, self.ledger) for each in own}
        by_rung: dict[str, MessageCounts] = {}
        for each, tally in tallies.items():
            rung = str(moved[each.bare_jid]["rung"]) if each.bare_jid in moved else "none"
            by_rung[rung] = by_rung.get(rung, MessageCounts()) + tally
        return Cell(
            self.nodes,
            self.trigger,
            kind,
            len(own),
            sum(tallies.values(), MessageCounts()),
            by_rung,
            sum(move.resumed for each in own for move in each.moves),
            tuple(f"{each.bare_jid}: {fault}" for each in own for fault in each.faults),
            tuple(line for each in own for line in self._trace(each)),
            sum(map(self._lost_within, own)),
            sum(map(self._disordered_within, own)),
            tuple(
                f"{each.bare_jid}: {[str(move.rung) for move in each.moves]}"
                for each in own
                if each.moves and each.bare_jid in moved and moved[each.bare_jid]["rung"] == "migrate"
            ),
        )

    def _lost_within(self, each: Mover) -> int:
        """Messages to this client that its contact has written, straight to a node, and that never came out of one."""
        contact = self.ledger.contacts.get(each.bare_jid)
        if contact is None or self.nodes not in _CLUSTERS:
            return 0
        account = contact.account
        gone = set(range(1, account.sent + 1)) - {n.number for n in each.account.arrived if n.origin == account.origin}
        return sum(not self._seen(Numbered(account.origin, number)) for number in gone - account.refused)

    def _disordered_within(self, each: Mover) -> int:
        """The same of those that came out of it behind a later one."""
        contact = self.ledger.contacts.get(each.bare_jid)
        if contact is None or self.nodes not in _CLUSTERS:
            return 0
        body = re.compile(rf">{re.escape(contact.account.origin)} #(\d+)</".encode())
        said = [
            (leg.down_at(found.start()), int(found[1]))
            for tap in self.taps
            for leg in tap.connections
            for found in body.finditer(leg.down)
        ]
        said.sort(key=lambda each: each[0])  # stable: what came at once stays in its order
        return out_of_order(Numbered(contact.account.origin, number) for _, number in said)

    def _trace(self, each: Mover) -> list[str]:
        contact = self.ledger.contacts.get(each.bare_jid)
        flows = [("up", each.account, self.ledger.arrived)]
        if contact is not None:
            flows.append(("down", contact.account, each.account.arrived))
        lines = []
        for way, account, arrived in flows:
            own = [n for n in arrived if n.origin == account.origin]
            counts = Counter(n.number for n in own)
            if out_of_order(own):
                lines.append(f"{way} {account.origin} came as {' '.join(str(n.number) for n in own)}")
            for number in range(1, account.sent + 1):
                if counts[number] != 1 and number not in account.refused:
                    lines.append(
                        f"{way} {account.origin} #{number} came {counts[number]} times; "
                        f"taps: {self._seen(Numbered(account.origin, number))}"
                    )
        return lines

    def _seen(self, numbered: Numbered) -> str:
        body = f">{numbered}</".encode()
        return ", ".join(
            f"node{at % 2 + 1} {way} {times}"
            for at, tap in enumerate(self.taps)
            for way, times in (
                ("up", sum(leg.up.count(body) for leg in tap.connections)),
                ("down", sum(leg.down.count(body) for leg in tap.connections)),
            )
            if times
        )
