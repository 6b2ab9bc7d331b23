"""The proxy in front of a real ejabberd cluster of two nodes, which share their users' sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
import trio

from real.certs import Authority
from real.crowd import crowd_users, open_crowd, users_on
from real.ejabberd import EjabberdCluster, EjabberdNode, version
from real.programs import DOMAIN, HOST, Need, require
from real.proxy import open_proxy
from real.tap import open_tap

pytestmark = pytest.mark.real

_EACH: Final = 10
_CHAT_SECONDS: Final = 1.0


_DELAY_SECONDS: Final = 600
"""Longer than a test: nobody has to be left when it is over."""


async def _stop_kindly(node: EjabberdNode) -> None:
    """Close its listeners, tell its users, and end their sessions when the delay is over."""
    command = "evacuate_kindly" if await version() >= (24, 12) else "stop_kindly"
    await node.control(command, str(_DELAY_SECONDS), "maintenance")


@pytest.mark.parametrize("trigger", ["stop", "kindly", "drain"])
async def test_cluster_node_is_emptied_while_everybody_chats_across_nodes(
    trigger: str, tmp_path: Path, logs: Path, authority: Authority
) -> None:
    """``stop`` is ejabberd's own: the stream error ``reset`` to everybody at once, which the proxy keeps from them.
    ``kindly``: the proxy sees its listener closed, and nobody is left when the node ends."""
    require(Need.EJABBERD, Need.SLIXMPP, Need.AIOXMPP)
    users = crowd_users(_EACH)
    names = [user for of_library in users.values() for user in of_library]
    with trio.fail_after(300):
        async with EjabberdCluster(tmp_path / "cluster", users=names) as cluster:
            node1, node2 = cluster.nodes
            async with open_tap(node1.port) as first, open_tap(node2.port) as second:
                taps = (first, second)
                lines = [f"node1 {first.address} inter=500ms", f"node2 {second.address}"]
                async with (
                    open_proxy(tmp_path, lines, authority.issue(DOMAIN, HOST)) as proxy,
                    open_crowd(logs, users) as crowd,
                ):
                    await crowd.connect(proxy.port)
                    on_first, on_second = users_on(first, taps), users_on(second, taps)
                    assert sorted(on_first + on_second) == sorted(crowd.users)
                    assert on_first, "nobody was placed on node1"
                    assert on_second, "nobody was placed on node2"

                    since = crowd.marks()
                    await crowd.chat([crowd.users], tag="before")
                    await trio.sleep(_CHAT_SECONDS)
                    if trigger == "stop":
                        await node1.stop()
                    elif trigger == "kindly":
                        async with trio.open_nursery() as stopping:
                            stopping.start_soon(_stop_kindly, node1)
                            await crowd.wait_back(on_first, since=since)
                            stopping.cancel_scope.cancel()
                        await node1.kill()
                    else:
                        done = await proxy.drain("node1")
                        assert done.code == 0, done.output
                    await crowd.wait_back(on_first, since=since)
                    await crowd.hush()
                    assert users_on(second, taps) == sorted(crowd.users), "not everybody is on node2"

                    await crowd.chat([crowd.users], tag="after", count=10)
                    received = await crowd.wait_received("after", 10 * len(crowd.users))
                    await crowd.assert_streams_whole()
                    account = await crowd.balance(taps)
                    print(f"moved={len(on_first)} {account}")
                    assert not account.faults
                    assert received == 10 * len(crowd.users)
                    assert account.up > 100
                    assert account.down > 100
