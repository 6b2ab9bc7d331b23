"""One run: all programs log in on node1, then the trigger, then who of them is back.

The nodes file has node1 alone while they log in; then node2 is added. Everybody is told to come back to the proxy
(``public=`` and ``public-ws=`` lead there), so it sees who does. Every user is pinned to node1, and for a rebalance
then to node2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import trio
from matrix.sites import Nodes, Site
from proxy_log import Row
from real.certs import Authority
from real.programs import DOMAIN, HOST, free_port, tail
from real.proxy import ProxyProcess, open_proxy

from clients.catalogue import Place, Prepared, Program
from clients.terminal import running
from cxfr_proxy.demo.browser import PATH

LOGIN_SECONDS: Final = 60.0
SETTLED_SECONDS: Final = 3.0
"""Between the last login and the trigger: first presences, and the second in which ejabberd must not move a session."""
PATIENCE_SECONDS: Final = 60.0
"""After the trigger, for those that can come back. The slowest takes 10 s to do so; before that it may have been asked
for as long."""
LOST_SECONDS: Final = 15.0
"""After all those, for the ones that are not expected."""
_LOOK_SECONDS: Final = 0.5
_TAKEN: Final = "migrate:moved"


class Trigger(StrEnum):
    DRAIN = "drain"
    SIGTERM = "node: SIGTERM"
    KILL = "node: SIGKILL"
    RESTART = "restart-workers"
    REBALANCE = "rebalance"


@dataclass(slots=True)
class Cell:
    """One client in one run. ``tried``: by which rungs it was told, each with what came of it. ``seconds`` from its
    leaving to its new session, as the proxy has it; ``None``: it has none. ``fault``: it did not even log in."""

    cluster: Nodes
    trigger: Trigger
    program: Program
    tried: str = ""
    seconds: float | None = None
    stayed: bool = False
    fault: str = ""

    @property
    def text(self) -> str:
        if self.fault:
            return f"no login: {self.fault}"
        if self.tried == _TAKEN:
            return "noticed nothing"
        if self.stayed:
            return "left alone" if not self.tried else f"stayed ({self.tried})"
        how = self.tried.replace(":moved", "").replace(",", ", ").replace(":", " ")
        if self.seconds is None:
            return f"**down** ({how or 'cut off'})"
        return f"back, {self.seconds:.1f} s ({how or 'cut off'})"


@dataclass
class Run:
    """See the module."""

    cluster: Nodes
    trigger: Trigger
    site: Site
    folder: Path
    authority: Authority
    programs: Mapping[Program, Prepared]
    logs: dict[Program, Path] = field(default_factory=dict)

    async def play(self) -> list[Cell]:
        await self.site.refresh()
        self.folder.mkdir(parents=True)
        port = free_port()
        lines = [
            f"node{n} {address} public={HOST}:{port} public-ws=wss://{HOST}:{port}{PATH} {options}"
            for n, (address, options) in enumerate(zip(self.site.addresses, self.site.options, strict=True), start=1)
        ]
        certificate = self.authority.issue(DOMAIN, HOST)
        async with (
            open_proxy(
                self.folder, lines[:1], certificate, port=port, options=["--workers", "2", *self.site.settings]
            ) as proxy,
            AsyncExitStack() as stack,
        ):
            for program in self.programs:
                await _command(proxy, "pin", _jid(program), "node1")
            for program, prepared in self.programs.items():
                place = Place(program.user, HOST, port, self.folder / program.user, self.authority.file)
                self.logs[program] = await stack.enter_async_context(running(program, prepared, place))
            before = await self._logged_in(proxy)
            await trio.sleep(SETTLED_SECONDS)
            proxy.nodes_file.write_text("".join(f"{line}\n" for line in lines), "utf-8")
            await _command(proxy, "reload")
            await _usable(proxy, 2)
            await self._pull(proxy)
            return await self._judge(proxy, before)

    async def _logged_in(self, proxy: ProxyProcess) -> dict[str, Row]:
        """Sessions by bare JID, once all are there or the time is over."""
        sessions: dict[str, Row] = {}
        with trio.move_on_after(LOGIN_SECONDS):
            while len(sessions) < len(self.programs):
                await trio.sleep(_LOOK_SECONDS)
                sessions = await _sessions(proxy)
        return sessions

    async def _pull(self, proxy: ProxyProcess) -> None:
        match self.trigger:
            case Trigger.DRAIN:
                await _command(proxy, "drain", "node1")
            case Trigger.SIGTERM:
                await self.site.terminate()
            case Trigger.KILL:
                await self.site.kill()
            case Trigger.RESTART:
                await _command(proxy, "restart-workers")
            case Trigger.REBALANCE:
                for program in self.programs:
                    await _command(proxy, "pin", _jid(program), "node2")
                await _command(proxy, "rebalance")

    async def _judge(self, proxy: ProxyProcess, before: Mapping[str, Row]) -> list[Cell]:
        cells = [self._cell(program, before) for program in self.programs]
        open_cells = [cell for cell in cells if not cell.fault]
        await _wait_back([cell for cell in open_cells if not cell.program.stays_down], proxy, PATIENCE_SECONDS)
        await _wait_back(open_cells, proxy, LOST_SECONDS)
        sessions = await _sessions(proxy)
        for cell in open_cells:
            cell.tried = "".join(event["tried"] for event in _events(proxy, "transfer", cell.program)[:1])
            now = sessions.get(_jid(cell.program))
            cell.stayed = cell.seconds is None and now is not None and now["id"] == before[_jid(cell.program)]["id"]
        return cells

    def _cell(self, program: Program, before: Mapping[str, Row]) -> Cell:
        cell = Cell(self.cluster, self.trigger, program)
        if _jid(program) not in before:
            cell.fault = (tail(self.logs[program], 1) or "silence")[:80]
        return cell


async def _wait_back(cells: Sequence[Cell], proxy: ProxyProcess, seconds: float) -> None:
    """Until all of them are back, or the time is over."""
    with trio.move_on_after(seconds):
        while any(cell.seconds is None for cell in cells):
            await trio.sleep(_LOOK_SECONDS)
            for cell in cells:
                for event in _events(proxy, "returned", cell.program):
                    cell.seconds = event["seconds"]
                if any(event["tried"] == _TAKEN for event in _events(proxy, "transfer", cell.program)):
                    cell.seconds = 0.0


def _events(proxy: ProxyProcess, name: str, program: Program) -> list[Row]:
    return [event for event in proxy.so_far(name) if _bare(event["jid"]) == _jid(program)]


def _jid(program: Program) -> str:
    return f"{program.user}@{DOMAIN}"


def _bare(jid: str | None) -> str:
    return (jid or "").partition("/")[0]


async def _sessions(proxy: ProxyProcess) -> dict[str, Row]:
    """The newest of each user, once it is bound."""
    rows = await proxy.show("sessions")
    return {_bare(row["jid"]): row for row in sorted(rows, key=lambda row: -row["age_seconds"]) if row["jid"]}


async def _usable(proxy: ProxyProcess, count: int) -> None:
    with trio.fail_after(120):
        while True:
            if sum(row["usable"] for row in await proxy.show("nodes")) >= count:
                return
            await trio.sleep(_LOOK_SECONDS)


async def _command(proxy: ProxyProcess, *words: str) -> None:
    done = await proxy.command(*words)
    assert done.code == 0, done.output


def users(programs: Sequence[Program]) -> list[str]:
    """Everybody who has to be able to log in."""
    return [program.user for program in programs]
