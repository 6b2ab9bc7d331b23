"""The log of a proxy that runs: whoever reads it, or doesn't."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
import trio
from e2e_proxy import Command, command

from cxfr_proxy.log_sums import RULES

pytestmark = pytest.mark.usefixtures("engines")

F_SETPIPE_SZ = 1031
CLIENTS = [f"127.0.1.{number}" for number in range(1, 61)]


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    path = tmp_path / "nodes.txt"
    path.write_text("node1 127.0.0.1:1 check=none\n")
    return path


async def be_refused(it: Command, client: str) -> None:
    stream = await trio.open_tcp_stream(*it.address, local_address=client)
    async with stream:
        await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
        while await stream.receive_some():
            pass


async def test_a_log_that_nobody_reads_holds_up_nobody(nursery: trio.Nursery, tmp_path: Path, nodes: Path) -> None:
    """Everybody is answered, and what was written meanwhile is there when it is read again."""
    async with command(nursery, tmp_path, nodes) as it:
        it.reading = trio.Event()
        assert it.process.stderr is not None
        fcntl.fcntl(it.process.stderr.fileno(), F_SETPIPE_SZ, 4096)  # type: ignore[attr-defined]
        for client in CLIENTS:
            await be_refused(it, client)
        assert len(await it.show("nodes")) == 1
        assert len(it.so_far("client-refused")) < len(CLIENTS)
        it.reading.set()
        refused = await it.event("client-refused", len(CLIENTS))
        assert {row["client"] for row in refused} == set(CLIENTS)


async def test_one_stranger_cannot_fill_it(nursery: trio.Nursery, tmp_path: Path, nodes: Path) -> None:
    most = RULES["client-refused"].most
    async with command(nursery, tmp_path, nodes, "--workers", "1") as it:
        for _ in range(most + 15):
            await be_refused(it, "127.0.1.1")
        await be_refused(it, "127.0.1.2")
        refused = await it.logged("client-refused", lambda found: any(row["client"] == "127.0.1.2" for row in found))
        assert len(refused) == most + 1
        it.process.terminate()
        assert await it.ended() == 0
        (told,) = [row for row in await it.event("client-refused") if "repeated" in row]
        assert (told["client"], told["repeated"]) == ("127.0.1.1", 15)
