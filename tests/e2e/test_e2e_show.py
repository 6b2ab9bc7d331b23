"""What an operator sees of a running proxy, and a session that is ended by command, in processes of their own."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import trio
from e2e_proxy import Command, command, connect, nodes_file, running
from needs import has_proc

from cxfr_proxy.demo.node import DemoNode


async def shown(proxy: Command, *words: str) -> Any:  # decoded JSON
    done = await proxy.say("show", *words, "--json")
    assert done.code == 0, done.output
    return json.loads(done.output.splitlines()[-1])


async def test_clients_are_found_looked_at_and_kicked(tmp_path: Path) -> None:
    nodes = [DemoNode("node1"), DemoNode("node2")]
    async with (
        running(*nodes) as nursery,
        command(nursery, tmp_path, nodes_file(tmp_path, nodes), "--starttls", "off", "--workers", "2") as proxy,
    ):
        raws = {user: await connect(proxy.address) for user in ("romeo", "juliet", "nurse", "tybalt")}
        for user, raw in raws.items():
            await raw.log_in(user)
        await proxy.event("bound", len(raws))
        everybody = await shown(proxy, "sessions")
        assert [row["jid"].partition("@")[0] for row in everybody] == list(raws)

        [romeo] = await shown(proxy, "sessions", "--user", "Romeo@localhost", "--address", "127.0.0.0/8")
        assert romeo["id"] == everybody[0]["id"]
        for node in nodes:
            found = await shown(proxy, "sessions", "--node", node.name)
            assert [row["id"] for row in found] == [row["id"] for row in everybody if row["node"] == node.name]
        few = await proxy.say("show", "sessions", "--limit", "3")
        assert "3 of 4 sessions are shown" in few.output
        assert await shown(proxy, "sessions", "--address", "192.0.2.0/24") == []

        details = await shown(proxy, "session", str(romeo["id"]))
        assert (details["jid"], details["node"], details["state"]) == (romeo["jid"], romeo["node"], "bound")
        assert details["home"] in ("node1", "node2")
        workers = await shown(proxy, "workers")
        assert details["worker"] in [row["number"] for row in workers]
        for row in workers:
            comm = trio.Path(f"/proc/{row['pid']}/comm")
            assert not has_proc or await comm.read_text() == f"cxfr-worker-{row['number']}\n"

        info = await shown(proxy, "info")
        assert (info["sessions"], info["workers"], info["nodes_usable"], info["state"]) == (4, 2, 2, "serving")
        assert info["listen"] == [str(proxy.address)]
        assert "development-certificate" in [row["event"] for row in await shown(proxy, "errors")]
        assert {"development-certificate", "listening"} <= {row["event"] for row in await shown(proxy, "events")}

        done = await proxy.say("kick", "romeo@localhost")
        assert (done.code, done.output) == (0, "1 session of romeo@localhost ended\n")
        assert await raws["romeo"].error() == "policy-violation"
        await raws["romeo"].close()
        [ended] = await proxy.event("session-end")
        assert (ended["session"], ended["reason"]) == (romeo["id"], "kicked")
        assert len(await shown(proxy, "sessions")) == 3
        gone = await proxy.say("show", "session", str(romeo["id"]))
        assert (gone.code, "there is no session" in gone.output) == (2, True)

        for raw in raws.values():
            await raw.close()
        proxy.process.send_signal(signal.SIGTERM)
        assert await proxy.ended() == 0
        assert (await proxy.say("show", "info")).code == 3
