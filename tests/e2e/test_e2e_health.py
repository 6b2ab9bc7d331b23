"""The real command in front of nodes that are processes: stopped and continued, killed, and started again."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from e2e_proxy import PATIENCE_SECONDS, Command, Raw, Row, command, connect, running
from ports import free_port

from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.node import DemoNode, StopStyle
from cxfr_proxy.demo.wire import EndOfFile
from cxfr_proxy.xmpp.stanza import Element

PATIENT, HASTY = (f"inter=300ms rise=2 fall={fall}" for fall in (1000, 3))
"""How checks look at nodes that are well, however slow the machine is, and at those that are to be down."""
FAST = ("--cxfr-timeout", "500ms", "--node-close-timeout", "5s")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


class NodeProcess:
    """One demo node, with users of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()  # which is still its own when it is started again
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parents[1] / "helpers" / "node_process.py"), self.name, str(self.port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        with self.process.stdout as line:
            assert int(line.readline()) == self.port

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def node_processes(*names: str) -> Iterator[list[NodeProcess]]:
    nodes = [NodeProcess(name) for name in names]
    try:
        yield nodes
    finally:
        for node in nodes:
            node.kill()


@dataclass
class World:
    proxy: Command
    nodes: list[NodeProcess]
    certificate: DemoCertificate
    users: dict[str, Raw] = field(default_factory=dict)
    """By full JID; those that are connected."""

    async def look(self, how: str, *names: str) -> None:
        """Have checks look at these nodes like that from now on."""
        lines = self.proxy.nodes.read_text().splitlines()
        changed = [
            line.replace(PATIENT, how).replace(HASTY, how) if line.split()[0] in names else line for line in lines
        ]
        self.proxy.nodes.write_text("".join(f"{line}\n" for line in changed))
        done = await self.proxy.say("reload")
        assert done.code == 0, done.output

    async def log_in(self, user: str) -> Raw:
        raw = await connect(self.proxy.address, self.certificate.client_context())
        full_jid = await raw.log_in(user)
        self.users[full_jid] = raw
        return raw

    async def users_on(self, node: str) -> list[str]:
        return [str(row["jid"]) for row in await self.proxy.show("sessions") if row["node"] == node]

    async def node_row(self, name: str) -> Row:
        return next(row for row in await self.proxy.show("nodes") if row["name"] == name)

    async def node_is(self, name: str, field: str, value: object) -> Row:
        """``show nodes``, once it says so."""
        with trio.fail_after(PATIENCE_SECONDS):
            while (row := await self.node_row(name))[field] != value:  # noqa: ASYNC110 - another process tells nobody
                await trio.sleep(0.05)
        return row

    async def comes_back(self, full_jid: str) -> None:
        """The client was told to leave, in whatever way: it reconnects, as nearly all do."""
        raw = self.users.pop(full_jid)
        incoming = await raw.read()
        while not isinstance(incoming, EndOfFile):
            if isinstance(incoming, Element) and "urn:xmpp:cxfr" in str(incoming.get("id")):
                kind = f"<iq type='error' id='{incoming.get('id')}' to='localhost'/>"
                await raw.send(kind)
            incoming = await raw.read()
        await raw.close()
        await self.log_in(full_jid.partition("@")[0])

    async def chat(self, sender: str, receiver: str, text: str) -> None:
        """A message from one to the other, who are on the same node."""
        await self.users[sender].send(f"<message to='{receiver}' type='chat'><body>{text}</body></message>")
        assert text in await self.users[receiver].xml()


@asynccontextmanager
async def world(
    tmp_path: Path, certificate: DemoCertificate, *options: str, workers: int = 2, line: str = PATIENT
) -> AsyncIterator[World]:
    with node_processes("node1", "node2") as nodes:
        file = tmp_path / "nodes.txt"
        file.write_text("".join(f"{node.name} 127.0.0.1:{node.port} {line}\n" for node in nodes))
        given = ("--certificate", str(certificate.certificate), "--key", str(certificate.key), "--domain", "localhost")
        others = ("--workers", str(workers), *FAST, *options)
        async with running() as nursery, command(nursery, tmp_path, file, *given, *others) as proxy:
            it = World(proxy, nodes, certificate)
            for number in range(8):
                await it.log_in(f"user{number}")
            yield it


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_node_that_is_stopped_is_down_and_its_users_move(
    tmp_path: Path, certificate: DemoCertificate, workers: int
) -> None:
    async with world(tmp_path, certificate, workers=workers, line=f"{PATIENT} slowstart=30m") as it:
        first, _ = it.nodes
        moving, staying = await it.users_on("node1"), await it.users_on("node2")
        assert len(moving) >= 2, "rendezvous hashing gives each about half"
        assert staying
        first.send(signal.SIGSTOP)
        await it.users[moving[0]].send(f"<message to='{moving[1]}'><body>nobody will read this</body></message>")
        await it.look(HASTY, "node1")
        down = (await it.proxy.event("node-down"))[0]
        assert (down["node"], down["reason"]) == ("node1", "the node did not answer in time")
        assert (await it.proxy.event("node-given-up"))[0]["session_outlook"] == "dead"
        async with trio.open_nursery() as nursery:
            for full_jid in moving:
                nursery.start_soon(it.comes_back, full_jid)
        assert sorted(await it.users_on("node2")) == sorted(it.users)
        for full_jid in moving:
            await it.chat(full_jid, staying[0], "moved")
        transfers = await it.proxy.event("transfer", len(moving))
        assert {(each["source"], each["trigger"]) for each in transfers} == {("node1", "node-down")}
        row = await it.node_row("node1")
        assert (row["health"], row["check"], row["sessions"]) == ("down", "timeout", 0)
        first.send(signal.SIGCONT)
        await it.look(PATIENT, "node1")
        row = await it.node_is("node1", "health", "up")
        assert 0 < row["warm_up"] < 1, "it is filled slowly"
        assert row["check"].startswith("ok ")
        it.proxy.nodes.write_text(it.proxy.nodes.read_text().replace(" slowstart=30m", ""))
        assert (await it.proxy.say("reload")).code == 0
        await it.node_is("node1", "warm_up", 1.0)
        for number in range(8):
            await it.log_in(f"late{number}")
        assert await it.users_on("node1")


@pytest.mark.parametrize("workers", [1, 2])
async def test_users_who_were_kept_chat_on_when_it_goes_on(
    tmp_path: Path, certificate: DemoCertificate, workers: int
) -> None:
    async with world(tmp_path, certificate, "--on-node-down", "keep", workers=workers) as it:
        users = await it.users_on("node1")
        it.nodes[0].send(signal.SIGSTOP)
        await it.look(HASTY, "node1")
        await it.proxy.event("node-given-up")
        await trio.sleep(1)
        assert await it.users_on("node1") == users
        await it.users[users[0]].send(f"<message to='{users[1]}'><body>a bit late</body></message>")
        it.nodes[0].send(signal.SIGCONT)
        await it.look(PATIENT, "node1")
        await it.node_is("node1", "health", "up")
        assert "a bit late" in await it.users[users[1]].xml()
        await it.chat(users[1], users[0], "as ever")
        assert it.proxy.silent_about("transfer")


@pytest.mark.parametrize("workers", [1, 2])
async def test_users_are_closed_at_once(tmp_path: Path, certificate: DemoCertificate, workers: int) -> None:
    slow = ("--on-node-down", "close", "--transfer-rate", "0.01")
    async with world(tmp_path, certificate, *slow, workers=workers) as it:
        users = await it.users_on("node1")
        it.nodes[0].send(signal.SIGSTOP)
        await it.look(HASTY, "node1")
        await it.proxy.event("node-given-up")
        for full_jid in users:
            assert await it.users.pop(full_jid).error() == "reset"
        assert {each["rung"] for each in await it.proxy.event("transfer", len(users))} == {"reset"}


async def test_nobody_is_moved_where_there_is_no_other_node(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        first, second = it.nodes
        users, moving = await it.users_on("node1"), await it.users_on("node2")
        # One after the other: were both stopped at once, who is found out first would have another for a moment.
        second.send(signal.SIGSTOP)
        await it.look(HASTY, "node2")
        async with trio.open_nursery() as nursery:
            for full_jid in moving:
                nursery.start_soon(it.comes_back, full_jid)
        transfers = await it.proxy.event("transfer", len(moving))
        first.send(signal.SIGSTOP)
        await it.look(HASTY, "node1")
        await it.proxy.event("node-given-up", 2)
        await trio.sleep(1)
        assert await it.proxy.event("transfer", len(transfers)) == transfers
        for node in it.nodes:
            node.send(signal.SIGCONT)
        await it.look(PATIENT, "node1", "node2")
        await it.proxy.event("node-up", 2)
        await it.chat(users[0], users[1], "as ever")


async def test_a_node_that_was_killed_and_is_back(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        users = await it.users_on("node1")
        it.nodes[0].kill()
        await it.look(HASTY, "node1")
        async with trio.open_nursery() as nursery:
            for full_jid in users:
                nursery.start_soon(it.comes_back, full_jid)
        await it.node_is("node1", "health", "down")
        assert (await it.node_row("node1"))["check"] == "refused"
        it.nodes[0].start()
        await it.look(PATIENT, "node1")
        await it.node_is("node1", "health", "up")
        assert {each["trigger"] for each in it.proxy.so_far("transfer")} <= {"node-lost", "node-down"}


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_node_that_closes_its_listener_is_left(
    tmp_path: Path, certificate: DemoCertificate, workers: str
) -> None:
    """Its sessions live on, and nobody has told them anything."""
    nodes = [DemoNode("node1"), DemoNode("node2")]
    async with running(*nodes) as nursery:
        file = tmp_path / "nodes.txt"
        file.write_text("".join(f"{node.name} {node.address} {PATIENT}\n" for node in nodes))
        given = ("--certificate", str(certificate.certificate), "--key", str(certificate.key), "--domain", "localhost")
        async with command(nursery, tmp_path, file, *given, "--workers", workers, *FAST) as proxy:
            it = World(proxy, [], certificate)
            for number in range(8):
                await it.log_in(f"user{number}")
            moving = await it.users_on("node1")
            assert len(moving) >= 2
            await nodes[0].stop(StopStyle.REFUSE)
            await it.look(HASTY, "node1")
            async with trio.open_nursery() as leaving:
                for full_jid in moving:
                    leaving.start_soon(it.comes_back, full_jid)
            assert not nodes[0].sessions
            assert sorted(session.full_jid for session in nodes[1].sessions) == sorted(it.users)
            assert (await proxy.event("node-given-up"))[0]["session_outlook"] == "failing"
            assert {each["trigger"] for each in await proxy.event("transfer", len(moving))} == {"node-down"}
