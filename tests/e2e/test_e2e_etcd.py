"""Proxies that share a real etcd: the real command, in front of demo nodes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from e2e_proxy import COMMAND, PATIENCE_SECONDS, Command, Raw, command, connect, running
from real.certs import Authority
from real.etcd import Etcd, open_etcd
from real.programs import free_port
from waiting import patient_line

from cxfr_proxy.demo.node import DemoNode

pytestmark = pytest.mark.real


async def until(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """As that of :mod:`e2e_proxy`, for what has to be asked for."""
    with trio.move_on_after(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - what is waited for happens in another process
            await trio.sleep(0.1)
        return
    raise AssertionError(f"did not happen: {what}")


@dataclass
class World:
    etcd: Etcd
    nodes: list[DemoNode]
    proxies: list[Command]
    raws: list[Raw] = field(default_factory=list)

    async def log_in(self, proxy: Command, count: int, prefix: str) -> None:
        for number in range(count):
            raw = await connect(proxy.address)
            await raw.log_in(f"{prefix}{number}")
            self.raws.append(raw)

    async def admin_state(self, proxy: Command, node: str = "node1") -> str:
        return next(str(row["admin_state"]) for row in await proxy.show("nodes") if row["name"] == node)

    async def state(self, proxy: Command) -> str:
        (row,) = await proxy.show("source")
        return str(row["state"])

    async def rate(self, proxy: Command) -> float:
        (row,) = await proxy.show("source")
        return float(row["rate"])

    def sessions(self, node: str) -> int:
        return len(next(each for each in self.nodes if each.name == node).sessions)


@asynccontextmanager
async def world(tmp_path: Path, *options: str, workers: tuple[str, ...] = ("1", "2")) -> AsyncIterator[World]:
    """Two nodes, etcd, and a proxy for each of ``workers``."""
    nodes = [DemoNode("node1"), DemoNode("node2")]
    async with running(*nodes) as nursery, open_etcd(tmp_path / "etcd") as etcd:
        for node in nodes:
            await etcd.put(f"nodes/{node.name}", patient_line(str(node.address)))
        it = World(etcd, nodes, [])
        fast = ("--cxfr-timeout", "300ms", "--node-close-timeout", "1s", "--starttls", "off", *options)
        async with _proxies(nursery, tmp_path, etcd.url, workers, fast) as it.proxies:
            yield it


@asynccontextmanager
async def _proxies(
    nursery: trio.Nursery, folder: Path, url: str, workers: tuple[str, ...], options: tuple[str, ...]
) -> AsyncIterator[list[Command]]:
    if not workers:
        yield []
        return
    own = folder / f"proxy{len(workers)}"
    own.mkdir()
    async with (
        command(nursery, own, url, "--workers", workers[0], *options) as proxy,
        _proxies(nursery, folder, url, workers[1:], options) as others,
    ):
        yield [proxy, *others]


# --- orders


async def test_a_drain_said_to_one_is_obeyed_by_all(tmp_path: Path) -> None:
    """And who waits for it waits for all of them: the node can be stopped then."""
    async with world(tmp_path) as it:
        one, two = it.proxies
        await it.log_in(one, 6, "one")
        await it.log_in(two, 6, "two")
        there = it.sessions("node1")
        assert there
        assert [row["sessions"] for row in await one.show("proxies")] != []
        done = await one.say("drain", "node1", "--wait")
        assert (done.code, it.sessions("node1")) == (0, 0), done.output
        assert [await it.admin_state(each) for each in it.proxies] == ["drain", "drain"]
        await until(lambda: _is(_transfers(one, two), there), "all are moved, by whichever")
        assert (await two.say("undrain", "node1")).code == 0
        await until(lambda: _is(it.admin_state(one), "ready"), "the other takes clients there again")
        assert json.loads((await it.etcd.values("states"))["node1"])["admin_state"] == "ready"


async def _transfers(*proxies: Command) -> int:
    await trio.lowlevel.checkpoint()
    return sum(len(each.so_far("transfer")) for each in proxies)


async def _is(found: Awaitable[object], wanted: object) -> bool:
    return await found == wanted


async def test_the_terms_of_a_drain_are_everybody_s(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        one, two = it.proxies
        await it.log_in(two, 8, "two")
        there = it.sessions("node1")
        assert there
        await one.say("drain", "node1", "--grace", "1h")
        await two.event("drain-begins")
        assert it.sessions("node1") == there  # it is in its grace there too
        assert (await two.say("abort", "node1")).code == 0  # the other may stop it
        await one.event("drain-aborted")
        await two.say("drain", "node1", "--grace", "0s")
        await until(lambda: _is(_sessions(it), 0), "the grace is over")


async def _sessions(it: World) -> int:
    await trio.lowlevel.checkpoint()
    return it.sessions("node1")


async def test_a_proxy_that_comes_later_knows_all_orders(tmp_path: Path) -> None:
    async with world(tmp_path, workers=("1",)) as it:
        await it.proxies[0].say("drain", "node1", "--grace", "1h")
        await until(lambda: _has(it.etcd.values("states"), "node1"), "it is written down")
        async with trio.open_nursery() as nursery:
            late = tmp_path / "late"
            late.mkdir()
            async with command(nursery, late, it.etcd.url, "--workers", "1") as proxy:
                assert await it.admin_state(proxy) == "drain"
                assert (await proxy.say("abort", "node1")).code == 0  # it is a drain, with its times
                await it.proxies[0].event("drain-aborted")
            nursery.cancel_scope.cancel()


async def _has(found: Awaitable[dict[str, str]], name: str) -> bool:
    return name in await found


async def test_pins_are_everybody_s(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        one, two = it.proxies
        pinned = [{"kind": "pin", "user": "juliet@localhost", "node": "node2", "here": 0, "elsewhere": []}]
        assert (await one.say("pin", "Juliet@localhost", "node2")).code == 0
        await until(lambda: _is(two.show("pins"), pinned), "the other knows it")
        assert await it.etcd.values("pins") == {"juliet@localhost": "node2"}
        assert (await two.say("unpin", "juliet@localhost")).code == 0
        await until(lambda: _is(one.show("pins"), []), "it is gone")
        assert await it.etcd.values("pins") == {}


# --- nodes


async def test_nodes_come_and_go_and_what_is_wrong_costs_nothing_else(tmp_path: Path) -> None:
    async with world(tmp_path, workers=("1",)) as it:
        (proxy,) = it.proxies
        await it.etcd.put("nodes/node3", "127.0.0.1:1 weight=heavy")
        (fault,) = await proxy.event("source-fault")
        assert (fault["key"], fault["error"]) == (
            "/cxfr/nodes/node3",
            "column 20: expected a whole number from 0 to 256, found 'heavy'",
        )
        await it.etcd.put("nodes/node3", "127.0.0.1:1 weight=3")
        await until(lambda: _is(_names(proxy), ["node1", "node2", "node3"]), "it is there")
        await it.etcd.put("states/node2", "maint")  # by hand
        await until(lambda: _is(it.admin_state(proxy, "node2"), "maint"), "a state by hand")
        await it.etcd.compact()
        await it.etcd.delete("nodes/node3")
        await until(lambda: _is(_names(proxy), ["node1", "node2"]), "it is gone")
        for name in ("node1", "node2"):
            await it.etcd.delete(f"nodes/{name}")
        await proxy.event("reload-failed")
        assert "node2" in await _names(proxy)  # a list without nodes is none


async def _names(proxy: Command) -> list[str]:
    return [row["name"] for row in await proxy.show("nodes") if row["admin_state"] != "removed"]


# --- the pace


async def test_the_share_of_a_proxy_that_is_killed_goes_to_the_others(tmp_path: Path) -> None:
    async with world(tmp_path, "--transfer-rate", "40") as it:
        one, two = it.proxies
        for each in it.proxies:
            await until(lambda each=each: _is(it.rate(each), 20.0), "half of it")  # type: ignore[misc]
        os.kill(one.process.pid, signal.SIGKILL)
        await until(lambda: _is(it.rate(two), 40.0), "all of it, once its lease is over")
        assert [row["own"] for row in await two.show("proxies")] == [True]


async def test_a_proxy_that_stops_gives_its_share_back_at_once(tmp_path: Path) -> None:
    async with world(tmp_path, "--transfer-rate", "40") as it:
        one, two = it.proxies
        await until(lambda: _is(it.rate(two), 20.0), "half of it")
        assert len(await it.etcd.values("proxies")) == 2
        one.process.terminate()
        assert await one.ended() == 0
        assert len(await it.etcd.values("proxies")) == 1, "it does not wait for its lease to end"
        await until(lambda: _is(it.rate(two), 40.0), "all of it")


async def test_the_fleet_moves_at_one_rate(tmp_path: Path) -> None:
    """20 a second, of two proxies together, and most of it where the clients are."""
    async with world(tmp_path, "--transfer-rate", "20", workers=("1", "1")) as it:
        one, two = it.proxies
        await it.etcd.put("states/node2", "maint")
        await until(lambda: _is(it.admin_state(two, "node2"), "maint"), "all go to one")
        await until(lambda: _is(it.admin_state(one, "node2"), "maint"), "all go to one")
        await it.log_in(one, 60, "one")
        await it.log_in(two, 20, "two")
        await it.etcd.put("states/node2", "ready")
        await until(lambda: _is(it.admin_state(one, "node2"), "ready"), "there is where to go")
        await until(lambda: _is(it.admin_state(two, "node2"), "ready"), "there is where to go")
        began = trio.current_time()
        done = await one.say("drain", "node1", "--wait")
        seconds = trio.current_time() - began
        assert done.code == 0, done.output
        # 80 clients less the bursts (half a second's worth, at most that of both rates).
        assert seconds > 3.0


# --- etcd away


async def test_losing_etcd_freezes_and_heals(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        one, two = it.proxies
        await it.etcd.stop()
        for each in it.proxies:
            await each.event("source-lost")
        assert [await it.state(each) for each in it.proxies] == ["lost", "lost"]
        await it.log_in(one, 4, "one")  # clients don't notice
        done = await one.say("drain", "node2")
        assert "only this proxy knows" in done.output
        await two.say("drain", "node1")
        assert [await it.admin_state(one, "node2"), await it.admin_state(two, "node2")] == ["drain", "ready"]
        await it.etcd.start()
        for each in it.proxies:
            await each.event("source-back")
        for name in ("node1", "node2"):
            for each in it.proxies:
                await until(lambda n=name, e=each: _is(it.admin_state(e, n), "drain"), f"{name}")  # type: ignore[misc]
        assert [len(await each.event("source-lost")) for each in it.proxies] == [1, 1]


async def test_who_was_later_counts_when_etcd_is_back(tmp_path: Path) -> None:
    """An order that was given to one proxy while it was cut off does not undo what the others were told meanwhile."""
    async with world(tmp_path, workers=("1",)) as it:
        (proxy,) = it.proxies
        await proxy.say("drain", "node1", "--grace", "1h")
        await until(lambda: _has(it.etcd.values("states"), "node1"), "it is written down")
        it.etcd.freeze()
        await proxy.event("source-lost")
        await proxy.say("undrain", "node1")
        it.etcd.thaw()
        await it.etcd.put("states/node1", "maint")
        # Whoever is first: the proxy waits a moment before it tries again.
        await proxy.event("source-back")
        (overtaken,) = await proxy.event("command-overtaken")
        assert overtaken["key"] == "/cxfr/states/node1"
        await until(lambda: _is(it.admin_state(proxy), "maint"), "theirs holds")


async def test_a_slow_etcd_holds_nobody_up(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.etcd.freeze()
        one, _ = it.proxies
        with trio.fail_after(PATIENCE_SECONDS):
            await it.log_in(one, 5, "slow")
            assert (await one.say("drain", "node1", "--grace", "1h")).code == 0
        await one.event("source-lost")
        failed = await one.say("reload")
        assert (failed.code, "no answer within 3 s" in failed.output) == (1, True)
        it.etcd.thaw()
        for each in it.proxies:
            await until(lambda each=each: _is(it.admin_state(each), "drain"), "written when it answers again")  # type: ignore[misc]


async def test_without_etcd_it_does_not_start(tmp_path: Path) -> None:
    url = f"etcd://127.0.0.1:{free_port()},127.0.0.1:{free_port()}/cxfr"
    for workers in ("1", "2"):
        code, output = await _run("--backends", url, "--workers", workers, "--listen", "127.0.0.1:0")
        assert code == 2
        (line,) = output.splitlines()
        assert re.fullmatch(f"cxfr-proxy: {url}: 127.0.0.1:[0-9]+: all attempts to connect to .* failed", line)


async def _run(*words: str) -> tuple[int, str]:
    with trio.fail_after(PATIENCE_SECONDS):
        done = await trio.run_process([*COMMAND, *words], capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout.decode()


# --- who may


async def test_user_password_and_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path / "ca")
    async with open_etcd(tmp_path / "etcd", authority.issue("127.0.0.1"), authority.file) as etcd:
        await etcd.put("nodes/node1", "127.0.0.1:1")
        await etcd.require_login("proxy", "open sesame")
        url = etcd.url.replace("etcds://", "etcds://proxy@")
        password = tmp_path / "password"
        password.write_text("open sesame\n")
        async with trio.open_nursery() as nursery:
            with_file = f"{url}&password-file={password}"
            async with command(nursery, tmp_path, with_file, "--workers", "1") as proxy:
                await proxy.say("drain", "node1", "--force")
                await until(lambda: _has(etcd.values("states"), "node1"), "it may write")
                await trio.sleep(6)  # leases are kept with a login as well
                assert proxy.silent_about("source-lost")
                assert "sesame" not in json.dumps(proxy.log) + json.dumps(await proxy.show("source"))
            monkeypatch.setenv("CXFR_ETCD_PASSWORD", "wrong")
            code, output = await _run("check", "--backends", url)
            assert (code, "authentication failed" in output) == (1, True), output
            assert "wrong" not in output
            assert "CERTIFICATE_VERIFY_FAILED" in (await _run("check", "--backends", url.split("?")[0]))[1]
            assert (await _run("check", "--backends", with_file))[0] == 0
            nursery.cancel_scope.cancel()
