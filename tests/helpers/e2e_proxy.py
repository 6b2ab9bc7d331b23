"""The parts that the end-to-end tests share: the real command in a process of its own, the same proxy in this process,
demo nodes and clients, and a client that says exactly what a test tells it to."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import trio
from asking import show
from proxy_log import LoggingProcess
from proxy_log import Row as Row
from waiting import PATIENCE_SECONDS as PATIENCE_SECONDS
from waiting import patient_line
from waiting import until as until

from cxfr_proxy.admin.console.console import Console
from cxfr_proxy.admin.rows.filters import SessionFilter
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.config.table import Config, RebalanceMode, WrongNode
from cxfr_proxy.config.values import ListenAddress
from cxfr_proxy.demo.certificate import DemoCertificate
from cxfr_proxy.demo.client import DemoClient
from cxfr_proxy.demo.habits import ClientKind, ClientLogin, Life, Security
from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.demo.wire import ERROR_TAG, Connection, EndOfFile, HostPort, StreamClosed, StreamEvent, StreamOpened
from cxfr_proxy.proxy import Proxy
from cxfr_proxy.relay.live_session import LiveSession
from cxfr_proxy.transfers.rebalances import Rebalances
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.worker.parts import WorkerParts
from cxfr_proxy.xmpp import names
from cxfr_proxy.xmpp.stanza import Element, serialize, stream_condition

DOMAIN = "localhost"
HEADER = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' "
    b"xmlns:stream='http://etherx.jabber.org/streams' version='1.0' to='localhost'>"
)
COMMAND = (sys.executable, "-m", "cxfr_proxy")

# --- nodes and clients


def nodes_file(directory: Path, nodes: Iterable[DemoNode], **options: str) -> Path:
    """``options``: what stands behind a node's address, by the node's name."""
    path = directory / "nodes.txt"
    lines = [f"{node.name} {node.address} {options.get(node.name, '')}" for node in nodes]
    path.write_text("".join(f"{patient_line(line)}\n" for line in lines))
    return path


@asynccontextmanager
async def running(*nodes: DemoNode) -> AsyncIterator[trio.Nursery]:
    """Nodes that serve. The nursery is for whatever else has to run, clients above all; all ends with the block."""
    failure: BaseException | None = None
    with trio.fail_after(4 * PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            for node in nodes:
                await nursery.start(node.serve)
            try:
                yield nursery
            except Exception as exc:
                failure = exc  # as it is, not in a group
            nursery.cancel_scope.cancel()
    for raw in Raw.all:
        raw.abandon()
    Raw.all.clear()
    if failure is not None:
        raise failure


async def log_in(
    nursery: trio.Nursery,
    address: HostPort,
    kinds: Sequence[ClientKind],
    certificate: DemoCertificate | None,
    *,
    resource: str = "demo",
) -> list[DemoClient]:
    """One client of each kind, bound."""
    clients = [
        DemoClient(
            f"user{number}@{DOMAIN}",
            kind,
            address,
            rng=random.Random(number),
            login=ClientLogin(
                security=Security.NONE if certificate is None else list(Security)[1 + number % 2],
                tls=None if certificate is None else certificate.client_context(),
                resource=resource,
            ),
            back_off_seconds=0.05,
        )
        for number, kind in enumerate(kinds)
    ]
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as starting:
            for client in clients:
                starting.start_soon(nursery.start, client.run)
    return clients


def all_bound(clients: Iterable[DemoClient]) -> bool:
    return all(client.life is Life.BOUND for client in clients)


def all_served(clients: Sequence[DemoClient], *nodes: DemoNode) -> bool:
    """Whether they are bound on these nodes. A client whose stream has ended, and that has not read so yet, takes
    itself for bound; the node knows better."""
    there = {session.full_jid for node in nodes for session in node.sessions if session.leg is not None}
    return all_bound(clients) and all(client.full_jid in there for client in clients)


class Raw:
    """A connection on which a test writes bytes and reads events. Left open, it is closed with the nodes."""

    all: ClassVar[list[Raw]] = []

    def __init__(self, transport: trio.abc.Stream) -> None:
        self.connection = Connection(transport)
        self.all.append(self)

    def abandon(self) -> None:
        transport = self.connection.transport
        while isinstance(transport, trio.SSLStream):
            transport = transport.transport_stream
        assert isinstance(transport, trio.SocketStream)
        transport.socket.close()

    async def send(self, data: str | bytes) -> None:
        await self.connection.transport.send_all(data.encode() if isinstance(data, str) else data)

    async def read(self) -> StreamEvent:
        with trio.fail_after(PATIENCE_SECONDS):
            return await self.connection.read()

    async def element(self) -> Element:
        incoming = await self.read()
        assert isinstance(incoming, Element), incoming
        return incoming

    async def xml(self) -> str:
        return serialize(await self.element()).decode()

    async def open(self, header: bytes = HEADER) -> str:
        """A stream header, its answer and the features."""
        await self.send(header)
        assert isinstance(await self.read(), StreamOpened)
        return await self.xml()

    async def start_tls(self, tls: ssl.SSLContext) -> None:
        await self.send(f"<starttls xmlns='{names.TLS}'/>")
        assert "proceed" in await self.xml()
        stream = trio.SSLStream(self.connection.transport, tls, server_hostname=DOMAIN)
        await stream.do_handshake()
        self.connection.upgrade(stream)

    async def authenticate(self, user: str = "romeo", password: str = "secret") -> None:
        token = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
        await self.send(f"<auth xmlns='{names.SASL}' mechanism='PLAIN'>{token}</auth>")
        assert "success" in await self.xml()

    async def log_in(
        self, user: str = "romeo", password: str = "secret", resource: str = "r", header: bytes = HEADER
    ) -> str:
        await self.open(header)
        await self.authenticate(user, password)
        self.connection.restart()
        await self.open(header)
        await self.send(f"<iq type='set' id='b'><bind xmlns='{names.BIND}'><resource>{resource}</resource></bind></iq>")
        assert f"{user}@localhost/{resource}" in await self.xml()
        return f"{user}@localhost/{resource}"

    async def error(self) -> str:
        """Return the end of this stream: the condition of the next stream error, behind which the end must come."""
        incoming = await self.read()
        while isinstance(incoming, StreamOpened) or (isinstance(incoming, Element) and incoming.tag != ERROR_TAG):
            incoming = await self.read()
        assert isinstance(incoming, Element), incoming
        condition = stream_condition(incoming)
        assert isinstance(await self.read(), StreamClosed)
        await self.closed()
        return condition

    async def closed(self) -> None:
        incoming = await self.read()
        assert isinstance(incoming, EndOfFile), incoming
        await self.close()

    async def close(self) -> None:
        await self.connection.close()


async def connect(address: HostPort, tls: ssl.SSLContext | None = None) -> Raw:
    stream: trio.abc.Stream = await trio.open_tcp_stream(*address)
    if tls is not None:
        stream = trio.SSLStream(stream, tls, server_hostname=DOMAIN)
    return Raw(stream)


def port_of(raw: Raw) -> int:
    """The client's own."""
    transport = raw.connection.transport
    while isinstance(transport, trio.SSLStream):
        transport = transport.transport_stream
    assert isinstance(transport, trio.SocketStream)
    port: int = transport.socket.getsockname()[1]
    return port


# --- the proxy in this process


class ProxyHere:
    """A proxy in this process, and what tests look at in it."""

    def __init__(self, config: Config) -> None:
        self.proxy = Proxy(config)

    @property
    def address(self) -> HostPort:
        return HostPort(*self.proxy.addresses[0])

    @property
    def registry(self) -> Registry:
        """The worker's."""
        return self._parts.registry

    @property
    def live(self) -> list[LiveSession]:
        """Its sessions, as the pump has them."""
        return [live for live in self.registry if isinstance(live, LiveSession)]

    @property
    def cluster(self) -> Cluster:
        """The nodes as the worker knows them."""
        return self._parts.cluster

    @property
    def _parts(self) -> WorkerParts:
        parts = self.proxy.worker.parts
        assert parts is not None
        return parts

    @property
    def console(self) -> Console:
        return self.proxy.console

    async def nodes_of_sessions(self) -> list[str]:
        """The name of each session's node, the oldest session first, as an operator is told."""
        found = await self.console.clients.sessions(SessionFilter())
        return [json.loads(bytes(row))["node"] for row in found.rows]

    @property
    def rebalances(self) -> Rebalances:
        return self.proxy.supervisor.rebalances


@asynccontextmanager
async def in_process(config: Config, *, placing: bool = False) -> AsyncIterator[tuple[ProxyHere, HostPort]]:
    """For tests of many small things: no process to start. Clients stay where they are unless ``placing``."""
    if not placing:
        config = replace(config, wrong_node=WrongNode.KEEP, rebalance=RebalanceMode.MANUAL)
    here = ProxyHere(replace(config, listen=(ListenAddress("127.0.0.1", 0),), workers=1))
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(here.proxy.run)
        try:
            yield here, here.address
        except Exception as exc:
            failure = exc
        for raw in Raw.all:
            raw.abandon()
        await until(lambda: not len(here.registry), "sessions end with their clients")
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


# --- the proxy in a process of its own


@dataclass
class Finished:
    """A command that has ended."""

    code: int
    output: str


async def run(*words: str) -> Finished:
    """Run ``cxfr-proxy WORDS`` to its end."""
    with trio.fail_after(PATIENCE_SECONDS):
        done = await trio.run_process([*COMMAND, *words], capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    return Finished(done.returncode, done.stdout.decode())


class Command(LoggingProcess):
    """The running command."""

    def __init__(self, process: trio.Process, control: Path, nodes: Path) -> None:
        super().__init__(process)
        self.control = control
        self.nodes = nodes
        self.address = HostPort("", 0)

    async def say(self, *words: str) -> Finished:
        """``cxfr-proxy WORDS --control …``, a process as well."""
        return await run(*words, "--control", str(self.control))

    async def show(self, what: str) -> list[Row]:
        """The rows of ``show WHAT --json``, of all workers, without a process for the question."""
        rows: list[Row] = await show(self.control, what)
        return rows


@asynccontextmanager
async def command(
    nursery: trio.Nursery,
    directory: Path,
    nodes: Path | str,
    *options: str,
    within: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
) -> AsyncIterator[Command]:
    """``cxfr-proxy --backends nodes …`` on a free port, once it accepts. At the end it is killed if it still runs.
    Clients stay where they are unless ``options`` say otherwise. ``within``: a command that runs the rest of its line,
    with the descriptors ``pass_fds``.

    A line in the log that isn't an event, a traceback say, fails the test.
    """
    control = directory / "c.sock"
    process = await trio.lowlevel.open_process(
        [
            *within,
            *COMMAND,
            *("--backends", str(nodes), "--listen", "127.0.0.1:0", "--control", str(control)),
            *("--log-format", "json", "--see-other-host-timeout", "1s"),
            *("--wrong-node", "keep", "--rebalance", "manual"),
            *("--node-greeting-timeout", "60s", "--node-connect-timeout", "60s", "--tls-handshake-timeout", "60s"),
            *(("--workers", "1") if os.environ.get("CXFR_ENGINE") == "python" else ()),
            *options,
        ],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=pass_fds,
    )
    it = Command(process, control, Path(nodes))
    try:
        nursery.start_soon(it.read_log)
        listening = await it.event("listening")
        it.address = HostPort(listening[0]["address"], listening[0]["port"])
        yield it
    except Exception as exc:
        exc.add_note("the proxy's log ends:\n" + "\n".join(json.dumps(line) for line in it.log[-40:]))
        raise
    finally:
        with trio.CancelScope(shield=True):  # bounded: SIGKILL cannot be refused
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
            await process.wait()
    faults = [line for line in it.log if "raw" in line or line["event"] == "fault"]
    assert not faults, faults
