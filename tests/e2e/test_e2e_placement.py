"""Who is placed where, by the real command: pins, a user map, an endpoint that is asked, domains with nodes of their
own."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from e2e_proxy import COMMAND, HEADER, Raw, connect
from e2e_workers import World, world

from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate

NAMES = ("node1", "node2")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


def header_of(user: str, domain: str = "localhost") -> bytes:
    return HEADER.replace(b"to='localhost'", f"to='{domain}' from='{user}@{domain}'".encode())


async def nodes_of(it: World, user: str, count: int = 16) -> set[str]:
    """Where clients that name themselves are placed; they leave again.

    The kernel deals connections out to the workers by chance: both get some of 16, but for once in 32,768 times.
    """
    raws: list[Raw] = []
    jids: list[str] = []

    async def log_in(number: int) -> None:
        raws.append(raw := await connect(it.proxy.address, it.certificate.client_context()))
        jids.append(await raw.log_in(user, resource=f"r{number}", header=header_of(user)))

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(log_in, number)
    nodes = {str(row["node"]) for row in await it.proxy.show("sessions") if row["jid"] in jids}
    for raw in raws:
        await raw.close()
    return nodes


def other(node: str) -> str:
    return NAMES[node == "node1"]


async def test_pins(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        (home,) = await nodes_of(it, "kim")
        stays = await connect(it.proxy.address, it.certificate.client_context())
        await stays.log_in("kim", resource="stays", header=header_of("kim"))
        said = await it.proxy.say("pin", "Kim@LOCALHOST", other(home))
        assert said.code == 0, said.output
        assert await nodes_of(it, "kim") == {other(home)}
        pins = await it.proxy.show("pins")
        assert pins == [{"user": "kim@localhost", "node": other(home), "here": 0, "elsewhere": [home]}]
        assert await it.pings(stays)

        workers = await it.workers()
        os.kill(workers[1]["pid"], signal.SIGKILL)
        os.kill(workers[2]["pid"], signal.SIGKILL)
        await it.proxy.event("worker-up", 4)
        assert await nodes_of(it, "kim") == {other(home)}

        assert (await it.proxy.say("unpin", "kim@localhost")).code == 0
        assert await nodes_of(it, "kim") == {home}
        assert await it.proxy.show("pins") == []
        for words, error in (
            (("unpin", "kim@localhost"), "kim@localhost has no pin"),
            (("pin", "kim@localhost", "node3"), "no node 'node3'"),
            (("pin", "kim", "node1"), "expected a bare JID"),
        ):
            said = await it.proxy.say(*words)
            assert said.code == 2
            assert error in said.output


async def test_the_user_map_is_followed_by_all_workers(tmp_path: Path, certificate: DemoCertificate) -> None:
    path = tmp_path / "users.txt"
    path.write_text("Kim@localhost node1\nsam@localhost node2\nlost@localhost node9\n")
    async with world(tmp_path, certificate, "--user-map", str(path)) as it:
        assert await nodes_of(it, "kim") == {"node1"}
        assert await nodes_of(it, "sam") == {"node2"}
        assert (await it.proxy.event("user-map-unknown-nodes"))[0] == {"nodes": "node9", "count": 1}
        path.write_text("kim@localhost node2\n")
        await it.proxy.event("user-map", 2)
        assert await nodes_of(it, "kim") == {"node2"}
        path.write_text("kim@localhost node1\nsam\n")
        assert ":2:4: expected a node's name" in (await it.proxy.event("reload-failed"))[0]["error"]
        assert await nodes_of(it, "kim") == {"node2"}
        said = await it.proxy.say("reload")
        assert said.code == 2
        assert ":2:4: expected a node's name" in said.output
        workers = await it.workers()
        os.kill(workers[1]["pid"], signal.SIGKILL)
        os.kill(workers[2]["pid"], signal.SIGKILL)
        await it.proxy.event("worker-up", 4)
        assert await nodes_of(it, "kim") == {"node2"}


async def test_a_map_with_faults_is_refused_at_the_start(tmp_path: Path) -> None:
    nodes, users = tmp_path / "nodes.txt", tmp_path / "users.txt"
    nodes.write_text("node1 127.0.0.1:1\n")
    users.write_text("kim@h\n")
    done = await trio.run_process(
        [*COMMAND, "--backends", str(nodes), "--user-map", str(users)],
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.decode().endswith("users.txt:1:6: expected a node's name after the user, found nothing\n")


@asynccontextmanager
async def endpoint(answers: dict[str, str | None]) -> AsyncIterator[tuple[str, list[str]]]:
    """Says what ``answers`` says by user, nothing at all for ``None``, and 404 for others. Also who was asked about."""
    asked: list[str] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            while data := await stream.receive_some():
                user = data.decode().split("jid=")[1].split("%40")[0]
                asked.append(user)
                answer = answers.get(user, "")
                if answer is None:
                    await trio.sleep_forever()
                status = "200 OK" if answer else "404 Not Found"
                await stream.send_all(
                    f"HTTP/1.1 {status}\r\nContent-Length: {len(answer or '')}\r\n\r\n{answer}".encode()
                )

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}/where", asked
        nursery.cancel_scope.cancel()


async def test_an_endpoint_that_knows_and_one_that_hangs(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with endpoint({"kim": "node1", "sam": "node2", "lost": "node9", "slow": None}) as (url, asked):
        options = ("--user-lookup", url, "--lookup-timeout", "200ms")
        async with world(tmp_path, certificate, *options) as it:
            assert await nodes_of(it, "kim") == {"node1"}
            assert await nodes_of(it, "sam") == {"node2"}
            assert asked.count("kim") <= 2  # once for each worker
            for user in ("nobody", "lost", "slow"):
                assert len(await nodes_of(it, user, 1)) == 1
                assert user in asked
            failures = [event["reason"] for event in it.proxy.events("lookup-failed")]
            assert failures
            assert not any(user in reason for user in ("lost", "slow") for reason in failures)
