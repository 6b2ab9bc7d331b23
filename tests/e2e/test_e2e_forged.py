"""A stranger's forged transfers, with the real command: the victim is neither moved, nor does it lose its stream."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e_proxy import command, connect, log_in, nodes_file, running, until

from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.client import ACK_EVERY, DemoClient
from cxfr_proxy.demo.cluster import DemoCluster, NodeSession
from cxfr_proxy.demo.habits import ClientKind, Traffic
from cxfr_proxy.demo.node import DemoNode

pytestmark = pytest.mark.usefixtures("engines")

FORGED = (
    "<iq type='set' id='f{number}' to='{to}'><query xmlns='urn:xmpp:cxfr'><domain>localhost</domain>"
    "<server>evil.example</server></query></iq>"
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


def counts_agree(client: DemoClient, session: NodeSession) -> bool:
    """The client's count is its node's."""
    mine, nodes = client._resumption, session.counters
    assert mine is not None
    assert nodes is not None
    return (mine.received, mine.acknowledged + len(mine.unacknowledged)) == (nodes.sent, nodes.received)


async def test_a_stranger_cannot_take_a_stream_away(tmp_path: Path, certificate: DemoCertificate) -> None:
    """Its counts are even again before long: as it was, the client resumes where nodes share sessions."""
    cluster = DemoCluster(shared=True)
    nodes = [DemoNode("node1", cluster=cluster), DemoNode("node2", cluster=cluster)]
    options = ("--certificate", str(certificate.certificate), "--key", str(certificate.key), "--transfer-rate", "100")
    async with running(*nodes) as nursery:
        file = nodes_file(tmp_path, nodes, node1="resume=shared", node2="resume=shared")
        async with command(nursery, tmp_path, file, *options) as proxy:
            [victim] = await log_in(nursery, proxy.address, [ClientKind.STREAM_MANAGEMENT], certificate)
            assert victim.full_jid is not None
            stranger = await connect(proxy.address, certificate.client_context())
            await stranger.log_in("mallory")
            victim.traffic = Traffic(0.05)
            for number in range(5):
                await stranger.send(FORGED.format(number=number, to=victim.full_jid))
                refusal = await stranger.xml()
                assert f'id="f{number}"' in refusal, refusal
                assert "<not-allowed" in refusal, refusal
            [session] = [session for node in nodes for session in node.sessions if session.full_jid == victim.full_jid]
            await until(lambda: counts_agree(victim, session), "the last pong has come")
            so_far = victim.account.sent
            await until(lambda: victim.account.sent > so_far + 3 * ACK_EVERY, "it is acknowledged")
            victim.quiet()
            await until(lambda: victim.account.settled, "what was said has been answered")
            done = await proxy.say("drain", session.node, "--wait")
            assert done.code == 0, done.output
            await until(lambda: victim.moves, "it is back")
            assert [move.resumed for move in victim.moves] == [True]
            assert not victim.faults
            assert len(await proxy.event("forged-transfer", 5)) == 5
