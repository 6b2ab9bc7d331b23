"""Clients that vanish without a word: their machine is cut off, and not even the end of their connection arrives."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
from e2e_proxy import Raw, command
from needs import has_proc

NODE = Path(__file__).parents[1] / "helpers" / "node_process.py"
SITE, PHONE = "10.77.0.1", "10.77.0.2"

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or not has_proc,
    reason="only root can make network namespaces, by ip(8), and where /proc is mounted",
)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def two_machines() -> Iterator[tuple[str, str]]:
    """Network namespaces of the proxy's site and of a phone, with a wire between them."""
    site, phone = (f"cxfr-{os.getpid()}-{name}" for name in ("site", "phone"))
    made = []
    try:
        for name in (site, phone):
            ip("netns", "add", name)
            made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", site, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", phone)
        for name, address in ((site, SITE), (phone, PHONE)):
            ip("-n", name, "address", "add", f"{address}/30", "dev", "wire")
            ip("-n", name, "link", "set", "wire", "up")
        yield site, phone
    finally:
        for name in made:
            ip("netns", "delete", name)


def connect_within(namespace: str, address: tuple[str, int]) -> socket.socket:
    """A connection from that namespace. Only the thread that makes it enters there."""
    made: list[socket.socket] = []

    def make() -> None:
        with open(f"/run/netns/{namespace}") as entry:
            assert ctypes.CDLL(None, use_errno=True).setns(entry.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
        made.append(socket.create_connection(address, timeout=30))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


@asynccontextmanager
async def node_within(namespace: str) -> AsyncIterator[int]:
    """A demo node there; its port."""
    process = await trio.lowlevel.open_process(
        ["ip", "netns", "exec", namespace, sys.executable, str(NODE), "node1", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        yield int(await process.stdout.receive_some())
    finally:
        process.kill()
        with trio.CancelScope(shield=True):  # bounded: SIGKILL cannot be refused
            await process.wait()


@needs_namespaces
async def test_a_client_whose_link_is_cut_is_gone(tmp_path: Path) -> None:
    with two_machines() as (site, phone):
        async with node_within(site) as port, trio.open_nursery() as nursery:
            nodes = tmp_path / "nodes.txt"
            nodes.write_text(f"node1 127.0.0.1:{port}\n")
            options = ("--listen", f"{SITE}:0", "--starttls", "off", "--keepalive-timeout", "5s", "--workers", "1")
            within = ("ip", "netns", "exec", site)
            async with command(nursery, tmp_path, nodes, *options, within=within) as proxy:
                listening = {each["address"]: each["port"] for each in await proxy.event("listening", 2)}
                sock = connect_within(phone, (SITE, listening[SITE]))
                raw = Raw(trio.SocketStream(trio.socket.from_stdlib_socket(sock)))
                await raw.log_in()
                await proxy.event("bound")
                ip("-n", phone, "link", "set", "wire", "down")
                assert [each["reason"] for each in await proxy.event("session-end")] == ["client-lost"]
                raw.abandon()
            nursery.cancel_scope.cancel()
