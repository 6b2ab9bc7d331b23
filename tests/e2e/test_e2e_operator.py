"""The events that an operator finds in the log of the real command: who could not log in, and whose sessions are
gone."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from e2e_proxy import all_bound, command, connect, log_in, nodes_file, port_of, running, until

from cxfr_proxy.demo.habits import ClientKind
from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.demo.stream import NodeOffers
from cxfr_proxy.xmpp import names

pytestmark = pytest.mark.usefixtures("engines")


@pytest.mark.parametrize("route", ["login", "connect"])
async def test_a_login_that_fails_is_a_line_with_who_and_from_where(tmp_path: Path, route: str) -> None:
    node = DemoNode("node1", offers=NodeOffers(check_password=lambda user, password: password == "right"))
    async with (
        running(node) as nursery,
        command(nursery, tmp_path, nodes_file(tmp_path, [node]), "--starttls", "off", "--route", route) as proxy,
    ):
        raw = await connect(proxy.address)
        await raw.open()
        guess = base64.b64encode(b"\0kim\0wrong").decode()
        await raw.send(f"<auth xmlns='{names.SASL}' mechanism='PLAIN'>{guess}</auth>")
        assert "not-authorized" in await raw.xml()
        [failed] = await proxy.event("login-failed")
        assert failed.pop("session") > 0
        assert failed == {
            "client": "127.0.0.1",
            "port": port_of(raw),
            "node": "node1",
            "condition": "not-authorized",
            "mechanism": "PLAIN",
            "user": "kim@localhost",
            "via": None,
            "unique_id": None,
        }
        port = port_of(raw)
        await raw.close()
        [ended] = await proxy.event("session-end")
        assert (ended["client"], ended["port"], ended["reason"]) == ("127.0.0.1", port, "client-lost")
        assert ended["seconds"] > 0
        assert len(await proxy.event("login-failed")) == 1
        assert "wrong" not in repr(proxy.log)
        assert guess not in repr(proxy.log)


async def test_who_was_moved_is_back(tmp_path: Path) -> None:
    """Whichever worker has them: in the log, the lists, the drain and the metrics."""
    nodes = [DemoNode("node1"), DemoNode("node2")]
    async with (
        running(*nodes) as nursery,
        command(nursery, tmp_path, nodes_file(tmp_path, nodes), "--starttls", "off", "--workers", "2") as proxy,
    ):
        clients = await log_in(nursery, proxy.address, [ClientKind.CXFR, ClientKind.PLAIN] * 4, None)
        before = {row["name"]: row["sessions"] for row in await proxy.show("nodes")}
        drained = "node1" if before["node1"] else "node2"
        done = await proxy.say("drain", drained, "--wait")
        assert (done.code, f"{before[drained]} of {before[drained]} sessions moved" in done.output) == (0, True)
        back = await proxy.event("returned", before[drained])
        await until(lambda: all_bound(clients), "all are online")
        assert {row["source"] for row in back} == {drained}
        assert len({row["jid"] for row in back}) == before[drained]
        assert all(row["seconds"] >= 0 for row in back)
        rows = {row["name"]: row for row in await proxy.show("nodes")}
        assert (rows[drained]["returned"], rows[drained]["drain"]) == (before[drained], "done")
        transfers = await proxy.show("transfers")
        assert len([row for row in transfers if row["returned_seconds"] is not None]) == before[drained]
        nursery.cancel_scope.cancel()
