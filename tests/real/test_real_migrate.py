"""The rung *migrate* in front of a real ejabberd cluster: sessions go to the other node, and no client notices."""

from __future__ import annotations

import random
import ssl
from pathlib import Path
from typing import Final

import pytest
import trio
from waiting import until

from cxfr_proxy.demo.client import DemoClient
from cxfr_proxy.demo.habits import ClientKind, ClientLogin, Life, Security, Traffic
from cxfr_proxy.demo.wire import HostPort
from real.certs import Authority
from real.clients.fleet import Library
from real.programs import DOMAIN, PASSWORD, Need, background, require
from real.site import Site, open_site

pytestmark = pytest.mark.real

_LOST_IN_HAND_OVER: Final = 2
"""Messages, of some hundreds, that ejabberd may lose between its nodes as it hands sessions over."""
_WEB: Final = "raw"
"""A user who is nobody else's."""


def web_client(site: Site, authority: Authority) -> DemoClient:
    """A client on WebSocket, which writes to itself by way of its server."""
    login = ClientLogin(Security.DIRECT_TLS, ssl.create_default_context(cafile=authority.file), PASSWORD, "web")
    return DemoClient(
        f"{_WEB}@{DOMAIN}",
        ClientKind.WEBSOCKET_RESUMING,
        HostPort(site.proxy.host, site.proxy.port),
        rng=random.Random(1),
        login=login,
        traffic=Traffic(0.1, peer=f"{_WEB}@{DOMAIN}/web"),
    )


async def test_sessions_are_taken_to_the_other_node_and_no_client_notices(
    tmp_path: Path, logs: Path, authority: Authority
) -> None:
    """All on one node, in the middle of a chat across both; then that node is stopped. Before that all connections to
    the nodes are reset. Every other client has no XEP-0198."""
    require(Need.EJABBERD, Need.SLIXMPP)
    with trio.fail_after(300):
        async with open_site(tmp_path, logs, authority, migrates=True, libraries=[Library.SLIXMPP]) as site:
            pinned = await site.proxy.command("pin", f"{_WEB}@{DOMAIN}", "node1")
            assert pinned.code == 0, pinned.output
            web = web_client(site, authority)
            async with background(web.run):
                await site.connect()
                before = await site.homes()
                moving = {user for user, node in before.items() if node == "node1"}
                assert {_WEB} < moving < before.keys()
                await site.all_can_be_taken()
                since = site.marks()
                await site.chat("during", rate=5.0)
                await trio.sleep(1.0)
                assert site.reset() >= len(before)
                log = site.proxy.so_far
                await until(lambda: len(log("node-regained")) + len(log("transfer")) >= len(before), "all are back")
                kept = {row["jid"].partition("@")[0] for row in log("node-regained")}
                assert kept, "nobody was kept so"
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
                sent = web.account.sent
                await site.chat("after", count=5)
                await until(lambda: max(web.account.echoes, default=0) > sent, "the web client chats too")
                web.quiet()
                missing, doubled = await site.missing(), await site.doubled()
                assert doubled == []
                assert max(web.account.echoes.values()) == 1
                lost = len(missing) + web.account.sent - len(web.account.echoes)
                assert lost <= _LOST_IN_HAND_OVER, missing
                # A machine that stands still for two seconds makes the proxy go on to the next rung, which they do
                # notice.
                noticed = (moving - taken | before.keys() - kept) - {_WEB}
                await until(lambda: set(site.connected_again(since)) >= noticed, "those are back")
                assert set(site.connected_again(since)) == noticed, "nobody else has noticed"
                assert _WEB not in taken & kept or (web.moves, web.logins, web.life) == ([], 1, Life.BOUND)
                assert len(site.sent()) > 5 * len(before)
                counts = (
                    f"moved={len(moving)} kept={len(kept)} taken={len(taken)} messages={len(site.sent())} lost={lost}"
                )
                print(f"{counts} drain={done.seconds:.1f}s")
