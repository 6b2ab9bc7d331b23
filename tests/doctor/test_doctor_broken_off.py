"""Nodes that break off anywhere in what they say: before the greeting, within a login, behind it."""

from __future__ import annotations

import pytest
import trio
from doctor_nodes import DOMAIN, PASSWORD, SASL2, USER, ScriptedNode, offering, serving
from relay_tools import no_leak, peer

from cxfr_proxy.cluster.nodes_file import parse_nodes
from cxfr_proxy.config.table import Config, Timeouts
from cxfr_proxy.doctor.examining import sessions
from cxfr_proxy.doctor.examining.client import Account
from cxfr_proxy.doctor.examining.cluster import examine
from cxfr_proxy.doctor.report import DoctorReport

CONFIG = Config(
    domain=(DOMAIN,),
    timeouts=Timeouts(
        node_connect_timeout=20.0, tls_handshake_timeout=20.0, node_greeting_timeout=20.0, negotiation_timeout=60.0
    ),
)
AROUND = {"resume-not-shared", "token-local"}
"""Findings about a sound node, with which the broken one shares nothing."""


async def break_off(port: int, most: int, client: trio.SocketStream) -> None:
    """Serve as the node on that port does, until it has said so many bytes."""
    async with client, await trio.open_tcp_stream("127.0.0.1", port) as node, trio.open_nursery() as nursery:

        async def listen() -> None:
            try:
                async for data in client:
                    await node.send_all(data)
                await node.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

        nursery.start_soon(listen)
        left = most
        try:
            async for data in node:
                await client.send_all(data[:left])
                left -= len(data)
                if left <= 0:
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("most", [1, 100, 250, 400, 550, 700, 850, 1000, 1200, 1400, 1700, 2000])
async def test_a_node_that_breaks_off_is_blamed_and_no_other(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And whatever it has said: the report is there, and shows no password and nothing that a terminal would obey."""
    monkeypatch.setattr(sessions, "_YOUNG_SECONDS", 0.0)
    good, cut = (ScriptedNode(features=offering("SCRAM-SHA-1", "PLAIN") + SASL2) for _ in range(2))
    with no_leak():
        async with serving(good, cut) as [address, behind]:
            port = int(behind.rpartition(":")[2])
            async with peer(lambda client: break_off(port, most, client)) as broken:
                lines = f"node1 {address} resume=shared\nnode2 127.0.0.1:{broken} resume=shared\n"
                facts = await examine(CONFIG, parse_nodes(lines, "nodes.txt"), Account(USER, DOMAIN, PASSWORD))
    report = DoctorReport.of(facts)
    assert {each.rule.name for each in report.findings if each.symptom.node == "node1"} <= AROUND
    assert facts.nodes[0].session is not None
    assert facts.nodes[0].session.refused is None
    assert not any("not foreseen" in each.symptom.seen for each in report.findings)
    text = "\n".join([*report.lines(), report.as_json()])
    assert all(char == "\n" or char.isprintable() for char in text)
    assert PASSWORD not in text
    if most < 1000:  # behind that all may have been said that is asked for
        assert any(each.symptom.node == "node2" for each in report.findings)
