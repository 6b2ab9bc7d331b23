"""The features that a SASL2 client gets through the default route: FAST (XEP-0484) at its second login, and a
resumption inside it.

ejabberd shows SASL2 to nobody who does not say who they are, and Prosody FAST. So this is also about the header's
``from``. The taps tell what went over the wire. The servers are Debian 13's; with older ones there is nothing
to see.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from real.certs import Authority
from real.ejabberd import EjabberdCluster, version
from real.js import Js, install, open_js
from real.programs import DOMAIN, HOST, PASSWORD, Need, missing, require
from real.prosody import ProsodyNode
from real.proxy import ProxyProcess, open_proxy
from real.raw import open_raw
from real.tap import Tap, open_tap

pytestmark = pytest.mark.real

USERS = ("romeo", "juliet")
OPTIONS = ("--domain", DOMAIN, "--workers", "1")
FAST_LOGIN = b"HT-SHA-256-NONE"
FIRST_EJABBERD, FIRST_PROSODY = (24, 12), (13,)
"""With SASL2 and FAST."""
_SESSION_IDS_SECONDS = 2.5
"""ejabberd's session ids are seconds: one that is moved in its first may be killed by the one it was."""
PROSODY_SASL2 = ("sasl2", "sasl2_bind2", "sasl2_fast", "sasl2_sm")


@asynccontextmanager
async def open_ejabberd(folder: Path, size: int) -> AsyncIterator[list[int]]:
    """The ports of a cluster that offers SASL2 and FAST where TLS ends before it."""
    require(Need.EJABBERD)
    if await version() < FIRST_EJABBERD:
        pytest.skip("this ejabberd has no SASL2")
    async with EjabberdCluster(
        folder / "cluster",
        users=USERS,
        size=size,
        listener=["allow_unencrypted_sasl2: true"],
        modules=["mod_auth_fast"],
        settings=["disable_sasl_mechanisms: [digest-md5]"],
    ) as cluster:
        yield [node.port for node in cluster.nodes]


@asynccontextmanager
async def open_prosody(folder: Path) -> AsyncIterator[list[int]]:
    require(Need.PROSODY)
    async with ProsodyNode(folder / "node", users=USERS, stream_management=True, modules=PROSODY_SASL2) as node:
        if node.version < FIRST_PROSODY:
            pytest.skip("this Prosody is too old for SASL2")
        if node.lacks("sasl2"):
            missing("not installed: Prosody's module sasl2 (Debian: prosody-modules)")
        yield [node.port]


def js_folder(config: pytest.Config) -> Path:
    assert config.cache is not None
    return install(config.cache)


def logins(tap: Tap, mechanism: bytes = b"") -> list[bytes]:
    """Return what was said to that node on connections that began a login by SASL2, with that mechanism."""
    begun = re.compile(rb"<authenticate[^>]* mechanism=.%s" % mechanism)
    return [connection.up for connection in tap.connections if begun.search(connection.up)]


async def knows_its_nodes(proxy: ProxyProcess) -> None:
    """Wait until a client without a name gets header and features, and no node."""
    with trio.fail_after(300):
        while True:
            async with open_raw(proxy.port) as client:
                await client.open()
                if not await proxy.show("sessions"):
                    return
            await trio.sleep(0.2)


async def send_by_go(folder: Path, proxy_port: int, authority: Authority) -> str:
    """``go-sendxmpp`` sends one message and ends; what it said of it."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    with trio.fail_after(300):
        done = await trio.run_process(
            [
                *("go-sendxmpp", "--debug", "--suppress-root-warning", "-u", f"romeo@{DOMAIN}", "-p", PASSWORD),
                *("-j", f"{HOST}:{proxy_port}", f"juliet@{DOMAIN}"),
            ],
            stdin=b"hello",
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
            env={"PATH": os.environ["PATH"], "HOME": str(home), "SSL_CERT_FILE": str(authority.file)},
        )
    said = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, said
    return said


@asynccontextmanager
async def open_site(server: str, folder: Path, authority: Authority) -> AsyncIterator[tuple[ProxyProcess, Tap]]:
    """The proxy in front of one node, and what the node hears."""
    async with (
        open_ejabberd(folder, 1) if server == "ejabberd" else open_prosody(folder) as [port],
        open_tap(port) as tap,
    ):
        lines = [f"node1 {tap.address}"]
        async with open_proxy(folder, lines, authority.issue(DOMAIN, HOST), options=OPTIONS) as proxy:
            await knows_its_nodes(proxy)
            yield proxy, tap
            assert proxy.silent_about("login-failed")


@pytest.mark.parametrize("server", ["ejabberd", "prosody"])
async def test_go_sendxmpp_logs_in_by_fast(server: str, tmp_path: Path, authority: Authority) -> None:
    require(Need.GO_SENDXMPP)
    with trio.fail_after(300):
        async with open_site(server, tmp_path, authority) as (proxy, tap):
            first = await send_by_go(tmp_path, proxy.port, authority)
            assert len(logins(tap)) == 1, first
            assert not logins(tap, FAST_LOGIN)
            second = await send_by_go(tmp_path, proxy.port, authority)
            assert len(logins(tap, FAST_LOGIN)) == 1, second


@pytest.mark.parametrize("server", ["ejabberd", "prosody"])
async def test_xmppjs_comes_back_by_fast(
    server: str, tmp_path: Path, logs: Path, authority: Authority, pytestconfig: pytest.Config
) -> None:
    folder = js_folder(pytestconfig)
    with trio.fail_after(300):
        async with (
            open_site(server, tmp_path, authority) as (proxy, tap),
            open_js(
                Js.XMPPJS,
                folder,
                logs / "xmppjs.log",
                service=f"xmpp://{HOST}:{proxy.port}",
                user="romeo",
                ca=authority.file,
                plugin=False,
                drops=1,
            ) as client,
        ):
            await client.wait("online", 2)
            assert len(logins(tap, FAST_LOGIN)) == 1


async def test_xmppjs_resumes_on_another_node_inside_its_login(
    tmp_path: Path, logs: Path, authority: Authority, pytestconfig: pytest.Config
) -> None:
    """A node of an ejabberd pair is drained; tokens and sessions are the cluster's."""
    folder = js_folder(pytestconfig)
    with trio.fail_after(300):
        async with (
            open_ejabberd(tmp_path, 2) as [port1, port2],
            open_tap(port1) as first,
            open_tap(port2) as second,
        ):
            taps = {"node1": first, "node2": second}
            lines = [f"{name} {tap.address} resume=shared" for name, tap in taps.items()]
            async with open_proxy(tmp_path, lines, authority.issue(DOMAIN, HOST), options=OPTIONS) as proxy:
                await knows_its_nodes(proxy)
                async with open_js(
                    Js.XMPPJS,
                    folder,
                    logs / "xmppjs.log",
                    service=f"xmpp://{HOST}:{proxy.port}",
                    user="romeo",
                    ca=authority.file,
                    plugin=False,
                ) as client:
                    await client.wait("online")
                    [session] = await proxy.show("sessions")
                    await trio.sleep(_SESSION_IDS_SECONDS)
                    done = await proxy.drain(session["node"])
                    assert done.code == 0, done.output
                    await client.wait("resumed")
                    [session_now] = await proxy.show("sessions")
                old, new = taps.pop(session["node"]), taps[session_now["node"]]
                assert not logins(old, FAST_LOGIN)
                [login] = logins(new, FAST_LOGIN)
                assert b"<resume" in login
                assert any(b"<resumed" in connection.down for connection in new.connections)
                assert proxy.silent_about("login-failed")
