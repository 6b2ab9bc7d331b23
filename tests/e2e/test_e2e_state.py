"""What was ordered outlives the real command, however it ends."""

from __future__ import annotations

import signal
from pathlib import Path

from e2e_proxy import command, nodes_file, run, running

from cxfr_proxy.demo.node import DemoNode


async def test_a_node_stays_drained_when_the_proxy_is_killed(tmp_path: Path) -> None:
    """Each order is on disk once it is answered. A file that another proxy keeps, or that was tampered with, keeps the
    proxy from starting."""
    nodes = [DemoNode("node1"), DemoNode("node2")]
    state = tmp_path / "state"
    options = ("--starttls", "off", "--workers", "1", "--state", str(state))
    async with running(*nodes) as nursery:
        file = nodes_file(tmp_path, nodes, node1="check=none", node2="check=none")
        async with command(nursery, tmp_path, file, *options) as proxy:
            assert (await proxy.say("drain", "node1")).code == 0
            assert (await proxy.say("pin", "juliet@localhost", "node2")).code == 0
            proxy.process.send_signal(signal.SIGKILL)
            await proxy.process.wait()
        async with command(nursery, tmp_path, file, *options) as proxy:
            states = {row["name"]: row["admin_state"] for row in await proxy.show("nodes")}
            assert states == {"node1": "drain", "node2": "ready"}
            assert [(row["user"], row["node"]) for row in await proxy.show("pins")] == [("juliet@localhost", "node2")]
            assert str(state) in (await proxy.say("show", "info")).output
            assert (await proxy.say("undrain", "node1")).code == 0
            proxy.process.send_signal(signal.SIGKILL)
            await proxy.process.wait()
        async with command(nursery, tmp_path, file, *options) as proxy:
            assert {row["admin_state"] for row in await proxy.show("nodes")} == {"ready"}
            other = ("--control", str(tmp_path / "other.sock"), "--listen", "127.0.0.1:0")
            second = await run("--backends", str(file), *options, *other)
            assert second.code == 2
            assert (
                f"state {state}: another proxy (pid {proxy.process.pid}) keeps its state in this file" in second.output
            )
            proxy.process.send_signal(signal.SIGKILL)
            await proxy.process.wait()
            state.write_text(state.read_text().replace('"version":1', '"version":9'))
            refused = await proxy.say("--backends", str(file), *options)
            assert refused.code == 2
            assert f"{state}: expected version 1, found 9" in refused.output
        nursery.cancel_scope.cancel()
