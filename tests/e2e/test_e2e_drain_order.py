"""The order of a drain, with the real command and two workers: its plan, its grace, the inactive last, an abort."""

from __future__ import annotations

import json
import os
import signal
from datetime import datetime
from pathlib import Path

import pytest
import trio
from e2e_proxy import Finished, Row
from e2e_workers import World, number_of, world
from waiting import PATIENCE_SECONDS

from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate

INACTIVE = "<inactive xmlns='urn:xmpp:csi:0'/>"
ACTIVE = "<active xmlns='urn:xmpp:csi:0'/>"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


async def on_node1(it: World) -> list[Row]:
    return [row for row in await it.proxy.show("sessions") if row["node"] == "node1"]


async def moves(it: World, expected: set[str]) -> None:
    """Wait until these were asked to move, and see that nobody else was."""
    with trio.fail_after(PATIENCE_SECONDS):
        while not (asked := {row["jid"] for row in await it.proxy.show("transfers")}) >= expected:  # noqa: ASYNC110
            await trio.sleep(0.02)
    assert asked == expected


async def test_a_plan_foretells_the_drain(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, "--transfer-rate", "200") as it:
        await it.log_in(40)
        there = await on_node1(it)
        sleeper = it.raws[there[0]["jid"]]
        await sleeper.send(INACTIVE)
        assert await it.pings(sleeper)  # so the proxy has read what came before
        done = await it.proxy.say("drain", "node1", "--plan", "--json")
        assert json.loads(done.output) == {
            "kind": "drain-plan",
            "node": "node1",
            "sessions": len(there),
            "inactive": 1,
            "targets": [{"node": "node2", "sessions": len(there)}],
            "rate": 200.0,
            "seconds": pytest.approx(len(there) / 200),
            "stay_down": 0,
            "migrate": 0,
            "paced_rate": None,
            "refuses_logins": None,
        }
        assert (
            f"node1: {len(there)} sessions, 1 of them inactive"
            in (await it.proxy.say("drain", "node1", "--plan")).output
        )
        assert len(await on_node1(it)) == len(there)
        assert {row["admin_state"] for row in await it.proxy.show("nodes")} == {"ready"}
        assert it.proxy.silent_about("drain-begins")
        nowhere = await it.proxy.say("drain", "node2")
        assert nowhere.code == 0
        done = await it.proxy.say("drain", "node1", "--plan", "--json")
        assert [target["node"] for target in json.loads(done.output)["targets"]] == [None]


async def test_a_grace(tmp_path: Path, certificate: DemoCertificate) -> None:
    """Nobody new comes at once, and nobody is moved before it is over, also not by a worker that begins meanwhile."""
    async with world(tmp_path, certificate, "--transfer-rate", "1000") as it:
        await it.log_in(20)
        before = {row["jid"] for row in await on_node1(it) if number_of(row) == 2}
        done: list[Finished] = []
        async with trio.open_nursery() as draining:

            @draining.start_soon
            async def drain() -> None:
                done.append(await it.proxy.say("drain", "node1", "--grace", "4s", "--wait", "--json"))

            await it.proxy.event("drain-begins")
            os.kill((await it.workers())[1]["pid"], signal.SIGKILL)
            await it.proxy.event("worker-up", 3)
            await it.log_in(10, "later")
        assert done[0].code == 0, done[0].output
        first = json.loads(done[0].output.splitlines()[0])["progress"]
        assert (first["asked"], first["waiting_reason"]) == (0, "nobody is moved before the grace is over")
        bound = await it.proxy.event("bound", 30)
        assert {event["node"] for event in bound if event["jid"].startswith("later")} == {"node2"}
        await it.proxy.logged("transfer", lambda found: {event["jid"] for event in found} == before)
        [began, moved_first] = [parsed(it, event) for event in ("drain-begins", "transfer")]
        assert (moved_first - began).total_seconds() > 3.9


def parsed(it: World, event: str) -> datetime:
    """When the first of that kind was logged."""
    return datetime.fromisoformat(next(line["time"] for line in it.proxy.log if line.get("event") == event))


async def test_the_inactive_are_moved_last_or_when_they_wake(tmp_path: Path, certificate: DemoCertificate) -> None:
    """They sleep on for half of the time. With less time, all are moved by the end of that."""
    async with world(tmp_path, certificate, "--transfer-rate", "1000") as it:
        await it.log_in(24)
        there = [row["jid"] for row in await on_node1(it)]
        asleep, awake = there[::2], there[1::2]
        for jid in asleep:
            await it.raws[jid].send(INACTIVE)
            assert await it.pings(it.raws[jid])
        shown = {row["jid"] for row in await it.proxy.show("sessions") if row["inactive"]}
        assert shown == set(asleep)
        assert (await it.proxy.say("drain", "node1", "--deadline", "10m")).code == 0
        await moves(it, set(awake))
        woken = asleep[0]
        await it.raws[woken].send(ACTIVE)
        await moves(it, {*awake, woken})
        assert (await it.proxy.say("drain", "node1", "--deadline", "1s")).code == 0
        await moves(it, set(there))
        await it.proxy.event("drain-ends")


async def test_an_abort_leaves_everybody_where_he_is(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, "--transfer-rate", "1", "--cxfr-timeout", "1s") as it:
        await it.log_in(30)
        done: list[Finished] = []
        async with trio.open_nursery() as draining:

            @draining.start_soon
            async def drain() -> None:
                done.append(await it.proxy.say("drain", "node1", "--wait"))

            await it.proxy.event("drain-begins")
            assert (await it.proxy.say("abort", "node1")).code == 0
        assert done[0].code == 1
        assert done[0].output.endswith("sessions are left: the drain was aborted\n")
        await it.proxy.event("drain-aborted")
        asked = {row["jid"] for row in await on_node1(it) if row["transfer"] is not None}
        await it.proxy.event("transfer", len(asked))
        left = {row["jid"] for row in await on_node1(it)} - asked
        assert len(left) > 5
        it.proxy.nodes.write_text(it.proxy.nodes.read_text() + "node3 127.0.0.1:1\n")
        assert (await it.proxy.say("reload")).code == 0
        os.kill((await it.workers())[1]["pid"], signal.SIGKILL)
        await it.proxy.event("worker-up", 3)
        left = {row["jid"] for row in await on_node1(it)}
        await it.log_in(10, "later")
        assert {row["jid"] for row in await on_node1(it)} == left
        for jid in left:
            assert await it.pings(it.raws[jid])
        done = [await it.proxy.say("drain", "node1", "--wait", "--rate", "1000")]
        assert done[0].code == 0, done[0].output


async def test_the_same_in_one_process(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, "--workers", "1", "--transfer-rate", "1", "--cxfr-timeout", "1s") as it:
        await it.log_in(20)
        there = await on_node1(it)
        plan = json.loads((await it.proxy.say("drain", "node1", "--plan", "--json")).output)
        assert (plan["sessions"], plan["targets"]) == (len(there), [{"node": "node2", "sessions": len(there)}])
        assert (await it.proxy.say("abort", "node1")).code == 2
        assert (await it.proxy.say("drain", "node1", "--grace", "1h")).code == 0
        assert (await it.proxy.say("abort", "node1")).code == 0
        it.proxy.nodes.write_text(it.proxy.nodes.read_text() + "node3 127.0.0.1:1\n")
        assert (await it.proxy.say("reload")).code == 0
        await it.log_in(5, "later")
        assert {row["jid"] for row in await on_node1(it)} == {row["jid"] for row in there}
        assert it.proxy.silent_about("transfer")
        done = await it.proxy.say("drain", "node1", "--wait", "--rate", "1000")
        assert done.code == 0, done.output
