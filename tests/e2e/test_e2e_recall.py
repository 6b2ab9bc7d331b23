"""An abort while clients are being asked, with the real command: who refuses then is where it was, and alive."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e_proxy import Raw, until
from e2e_workers import World, world

from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.xmpp.stanza import Element

CLIENTS = 8
FAST = ("--transfer-rate", "1000", "--cxfr-timeout", "10s")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


async def asked(it: World) -> dict[str, tuple[Raw, Element]]:
    """Drain node1: the clients on it, by full JID, each with the request it has got."""
    await it.log_in(CLIENTS)
    there = [row["jid"] for row in await it.proxy.show("sessions") if row["node"] == "node1"]
    assert (await it.proxy.say("drain", "node1")).code == 0
    return {jid: (it.raws[jid], await it.raws[jid].element()) for jid in there}


async def answer(raw: Raw, request: Element, kind: str) -> None:
    await raw.send(f"<iq type='{kind}' id='{request.get('id')}' to='localhost'/>")


async def on_node1(it: World) -> set[str]:
    return {row["jid"] for row in await it.proxy.show("sessions") if row["node"] == "node1"}


@pytest.mark.parametrize("command", ["abort", "undrain"])
async def test_who_refuses_after_it_stays_and_is_served(
    tmp_path: Path, certificate: DemoCertificate, command: str
) -> None:
    async with world(tmp_path, certificate, *FAST) as it:
        clients = await asked(it)
        assert (await it.proxy.say(command, "node1")).code == 0
        for raw, request in clients.values():
            await answer(raw, request, "error")
            assert await it.pings(raw)
        assert await on_node1(it) == set(clients)
        rows = await it.proxy.show("transfers")
        assert {(row["jid"], row["rung"], row["outcome"]) for row in rows} == {
            (jid, "cxfr", "refused") for jid in clients
        }
        assert (await it.proxy.say("drain", "node1", "--wait", "--deadline", "3s")).code == 0
        transfers = await it.proxy.event("transfer", 2 * len(clients))
        assert {event["rung"] for event in transfers[len(clients) :]} == {"reset"}


async def test_a_drain_that_goes_on_meets_them_when_they_have_answered(
    tmp_path: Path, certificate: DemoCertificate
) -> None:
    """Their turn in the queue comes while they are still being asked."""
    async with world(tmp_path, certificate, *FAST) as it:
        clients = await asked(it)
        assert (await it.proxy.say("abort", "node1")).code == 0
        assert (await it.proxy.say("drain", "node1")).code == 0
        for raw, request in clients.values():
            await answer(raw, request, "error")
            assert await raw.error() == "reset"
        await it.proxy.event("drain-ends")
        await until(lambda: not it.nodes[0].sessions)
