"""Socket activation, with the real command: its sockets are handed over, as systemd does it."""

from __future__ import annotations

import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from e2e_proxy import COMMAND, DOMAIN, Raw, command, connect, nodes_file, running

from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.demo.wire import HostPort

ACTIVATE = """
import fcntl, os, sys
count = int(sys.argv[1])
given = [fcntl.fcntl(int(each), fcntl.F_DUPFD, 100) for each in sys.argv[2 : 2 + count]]
for number, each in enumerate(given, start=3):
    os.dup2(each, number)
    os.close(each)
os.environ |= {"LISTEN_FDS": str(count), "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": ":".join(["test"] * count)}
os.execvp(sys.argv[2 + count], sys.argv[2 + count :])
"""
"""Starts the rest of its arguments with so many descriptors, which the first ones name, as systemd does."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


def activated(*sockets: socket.socket) -> list[str]:
    numbers = [str(each.fileno()) for each in sockets]
    return [sys.executable, "-c", ACTIVATE, str(len(numbers)), *numbers]


def server(directory: Path) -> tuple[socket.socket, socket.socket, socket.socket]:
    """Sockets as a service manager has them, for clients by TCP and by path, and for HTTP."""
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(directory / "clients"))
    unix.listen()
    return socket.create_server(("127.0.0.1", 0)), unix, socket.create_server(("127.0.0.1", 0))


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_nobody_is_refused_while_no_proxy_runs(
    tmp_path: Path, certificate: DemoCertificate, workers: str
) -> None:
    """Clients who connect between two proxies wait; the second one, which was started for them, serves them."""
    node = DemoNode("node1")
    async with running(node) as nursery, AsyncExitStack() as closing:
        sockets = server(tmp_path)
        for each in sockets:
            closing.enter_context(each)
        tcp, _, http = sockets
        options = (
            *("--certificate", str(certificate.certificate), "--key", str(certificate.key)),
            *("--listen-unix", str(tmp_path / "clients"), "--workers", workers),
            *("--http", "{}:{}".format(*http.getsockname())),
        )
        file = nodes_file(tmp_path, [node])
        within, pass_fds = activated(*sockets), [each.fileno() for each in sockets]
        tls = certificate.client_context()
        address = HostPort(*tcp.getsockname())
        async with command(nursery, tmp_path, file, *options, within=within, pass_fds=pass_fds) as proxy:
            assert proxy.address == address
            raw = await connect(address, tls)
            await raw.log_in("romeo")
            await raw.close()
            proxy.process.terminate()
            await proxy.process.wait()
        early = (await trio.open_tcp_stream(*address), await trio.open_unix_socket(tmp_path / "clients"))
        async with command(nursery, tmp_path, file, *options, within=within, pass_fds=pass_fds) as proxy:
            for stream in early:
                await Raw(trio.SSLStream(stream, tls, server_hostname=DOMAIN)).log_in("juliet")
            asked = await trio.open_tcp_stream(*http.getsockname())
            async with asked:
                await asked.send_all(b"GET /livez HTTP/1.0\r\n\r\n")
                assert b" 200 " in await asked.receive_some(100)


async def test_a_descriptor_that_is_none(tmp_path: Path) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as wrong:
        done = await trio.run_process(
            [*activated(wrong), *COMMAND, "--backends", "nodes.txt", "--control", str(tmp_path / "c")],
            capture_stderr=True,
            check=False,
            pass_fds=[wrong.fileno()],
        )
    message = "descriptor 3 of LISTEN_FDS (test): expected a stream socket that listens (ListenStream= and Accept=no)"
    assert (done.returncode, done.stderr.decode()) == (2, f"cxfr-proxy: {message}\n")
