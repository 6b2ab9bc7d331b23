"""What an operator finds in the log of the real command: who could not log in, and whose sessions are gone."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from e2e_proxy import command, connect, nodes_file, port_of, running

from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.xmpp import names

pytestmark = pytest.mark.usefixtures("engines")


@pytest.mark.parametrize("route", ["login", "connect"])
async def test_a_login_that_fails_is_a_line_with_who_and_from_where(tmp_path: Path, route: str) -> None:
    node = DemoNode("node1", check_password=lambda user, password: password == "right")
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
        }
        port = port_of(raw)
        await raw.close()
        [ended] = await proxy.event("session-end")
        assert (ended["client"], ended["port"], ended["reason"]) == ("127.0.0.1", port, "client-lost")
        assert 0 < ended["seconds"] < 60
        assert len(proxy.events("login-failed")) == 1
        assert "wrong" not in repr(proxy.log)
        assert guess not in repr(proxy.log)
