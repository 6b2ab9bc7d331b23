"""Rolling restarts with the real command: by a command, and by hand while the proxy itself is restarted."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path

import trio
from e2e_proxy import Command, Finished, all_served, command, log_in, nodes_file, running, until

from cxfr_proxy.demo.cluster import DemoCluster
from cxfr_proxy.demo.habits import ClientKind
from cxfr_proxy.demo.node import DemoNode

NAMES = ("node1", "node2", "node3")
UNCHECKED = dict.fromkeys(NAMES, "check=none")
"""So that a machine that is slow for a moment has no node that is down."""
FAST = ("--starttls", "off", "--transfer-rate", "1000")
KINDS = [ClientKind.CXFR, ClientKind.STREAM_MANAGEMENT, ClientKind.PLAIN]


async def test_three_nodes_by_a_command(tmp_path: Path) -> None:
    """Each node is empty when its command runs. Clients of the first are moved twice, others once, nobody home."""
    cluster = DemoCluster(shared=True)
    nodes = [DemoNode(name, cluster=cluster) for name in NAMES]
    restarted = tmp_path / "restarted"
    async with (
        running(*nodes) as nursery,
        command(nursery, tmp_path, nodes_file(tmp_path, nodes, **UNCHECKED), *FAST, "--workers", "2") as proxy,
    ):
        clients = await log_in(nursery, proxy.address, KINDS * 4, None)
        await until(lambda: all_served(clients, *nodes), "all are online")
        first = {session.bare_jid for session in nodes[0].sessions}
        done = await proxy.say("roll", *NAMES, "--run", f"sh -c 'echo {{node}} >>{restarted}'", "--json")
        assert done.code == 0, done.output
        last = json.loads(done.output.splitlines()[-1])
        assert (last["node"], last["left"], last["finished"]) == (None, 0, True)
        assert restarted.read_text().split() == list(NAMES)
        assert [(event["node"], event["sessions"]) for event in await proxy.event("drain-ends", 3)] == [
            (name, 0) for name in NAMES
        ]
        steps = [event["node"] for event in await proxy.event("roll-step", 11)]
        assert steps == [*["node1"] * 3, *["node2"] * 4, *["node3"] * 4]
        await proxy.event("roll-ends")
        await until(lambda: all_served(clients, *nodes), "all are online again")
        moves = Counter(row["jid"].partition("/")[0] for row in await proxy.show("transfers"))
        assert set(moves) == {client.bare_jid for client in clients}
        # One that is back late finds that the next node's turn has come, and is moved once as well.
        assert {jid: count for jid, count in moves.items() if count != 1 and (count, jid in first) != (2, True)} == {}
        nursery.cancel_scope.cancel()


async def test_by_hand_while_the_proxy_is_killed(tmp_path: Path) -> None:
    """Whoever watches waits for the proxy to be there again, and the roll goes on where it was."""
    nodes = [DemoNode(name) for name in NAMES[:2]]
    outcome: list[Finished] = []
    async with running(*nodes) as nursery:
        file = nodes_file(tmp_path, nodes, **UNCHECKED)

        async def roll(proxy: Command) -> None:
            outcome.append(await proxy.say("roll", *NAMES[:2]))

        async with trio.open_nursery() as watching:
            async with command(nursery, tmp_path, file, *FAST, "--workers", "1") as proxy:
                watching.start_soon(roll, proxy)
                await proxy.logged("roll-step", lambda found: found and found[-1]["step"] == "restart")
                assert (await proxy.say("roll", "--restarted", "node1")).code == 0
                await proxy.logged(
                    "roll-step", lambda found: (found[-1]["node"], found[-1]["step"]) == ("node2", "restart")
                )
                proxy.process.send_signal(signal.SIGKILL)
                await proxy.process.wait()
            async with command(nursery, tmp_path, file, *FAST, "--workers", "1") as proxy:
                [event] = await proxy.event("roll-goes-on")
                assert (event["node"], event["step"]) == ("node2", "restart"), "it is still drained"
                shown = await proxy.say("show", "roll")
                assert [line.split()[:2] for line in shown.output.splitlines()[1:]] == [
                    ["node1", "done"],
                    ["node2", "restart"],
                ]
                assert (await proxy.say("roll", "--restarted", "node2")).code == 0
                await proxy.event("roll-ends")
                await until(lambda: bool(outcome), "the command that watches ends")
        assert outcome[0].code == 0, outcome[0].output
        assert "the roll goes on when it is there again" in outcome[0].output
        assert "all 2 nodes are restarted" in outcome[0].output
        nursery.cancel_scope.cancel()
