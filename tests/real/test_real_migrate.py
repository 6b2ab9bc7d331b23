"""The rung *migrate* in front of a real ejabberd cluster: sessions go to the other node, and no client notices."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
import trio
from waiting import until

from real.certs import Authority
from real.clients.fleet import Library
from real.programs import Need, require
from real.site import open_site

pytestmark = pytest.mark.real

_LOST_IN_HAND_OVER: Final = 2
"""Messages, of some hundreds, that ejabberd may lose between its nodes as it hands sessions over."""


async def test_sessions_are_taken_to_the_other_node_and_no_client_notices(
    tmp_path: Path, logs: Path, authority: Authority
) -> None:
    """All on one node, in the middle of a chat across both; then that node is stopped."""
    require(Need.EJABBERD, Need.SLIXMPP)
    with trio.fail_after(300):
        async with open_site(tmp_path, logs, authority, migrates=True, libraries=[Library.SLIXMPP]) as site:
            await site.connect()
            before = await site.homes()
            moving = {user for user, node in before.items() if node == "node1"}
            assert 0 < len(moving) < len(before)
            since = site.marks()
            await site.chat("during", rate=5.0)
            await trio.sleep(1.0)
            done = await site.proxy.drain("node1")
            assert done.code == 0, done.output
            await trio.sleep(0.5)
            await site.hush()
            assert set((await site.homes()).values()) == {"node2"}
            taken = {
                row["jid"].partition("@")[0]
                for row in await site.proxy.show("transfers")
                if (row["rung"], row["outcome"]) == ("migrate", "moved")
            }
            assert taken, "nobody was moved so"
            await site.cluster.nodes[0].stop()
            await site.chat("after", count=5)
            missing, doubled = await site.missing(), await site.doubled()
            assert doubled == []
            assert len(missing) <= _LOST_IN_HAND_OVER, missing
            # A machine that stands still for two seconds makes the proxy go on to the next rung, which they do notice.
            await until(lambda: set(site.connected_again(since)) >= moving - taken, "those are back")
            assert set(site.connected_again(since)) == moving - taken, "nobody else has noticed"
            assert len(site.sent()) > 5 * len(before)
            counts = f"moved={len(moving)} taken={len(taken)} messages={len(site.sent())} missing={len(missing)}"
            print(f"{counts} drain={done.seconds:.1f}s")
