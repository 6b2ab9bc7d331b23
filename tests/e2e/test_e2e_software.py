"""The real command with two workers, and what it knows of its clients' software."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from e2e_proxy import all_served, log_in, until
from e2e_workers import World, world

from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.client import DemoClient
from cxfr_proxy.demo.habits import ClientKind, caps_hash


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


def caps(kind: ClientKind) -> str:
    return f"urn:cxfr-proxy:demo:{kind}#{caps_hash(kind)}"


async def empty(it: World, node: str, clients: list[DemoClient]) -> None:
    done = await it.proxy.say("drain", node, "--wait")
    assert done.code == 0, done.output
    others = [each for each in it.nodes if each.name != node]
    await until(lambda: all_served(clients, *others))
    await it.proxy.say("undrain", node)


async def test_software_that_has_refused_is_not_asked_again(tmp_path: Path, certificate: DemoCertificate) -> None:
    """By no worker, whichever it was that learned it."""
    async with world(tmp_path, certificate, "--transfer-rate", "2") as it:
        clients = await log_in(it.nursery, it.proxy.address, [ClientKind.PLAIN] * 12, it.certificate)
        rows = await it.proxy.show("sessions")
        node, leaving = Counter(row["node"] for row in rows).most_common(1)[0]
        await empty(it, node, clients)
        tried = Counter(event["tried"] for event in await it.proxy.event("transfer", leaving))
        assert tried == {"cxfr:refused,reset:moved": 1, "reset:moved": leaving - 1}
        found = await it.proxy.show("transfers")
        assert {(row["software"], row["caps"], row["rung"], row["outcome"]) for row in found} == {
            ("other", caps(ClientKind.PLAIN), "reset", "moved")
        }
        assert "other" in (await it.proxy.say("show", "transfers")).output


async def test_the_operator_names_whom_not_to_ask(tmp_path: Path, certificate: DemoCertificate) -> None:
    """Though it would say yes."""
    kinds = [ClientKind.CXFR, ClientKind.CXFR_SILENT] * 2
    async with world(
        tmp_path, certificate, "--cxfr-deny", f"caps={caps(ClientKind.CXFR)}", "--cxfr-deny", "agent=x"
    ) as it:
        clients = await log_in(it.nursery, it.proxy.address, kinds, it.certificate)
        for node in it.nodes:
            await empty(it, node.name, clients)
        found = {(row["caps"], row["rung"]) for row in await it.proxy.show("transfers")}
        assert found == {(caps(ClientKind.CXFR), "reset"), (caps(ClientKind.CXFR_SILENT), "cxfr")}
