"""The attempts of an attacker with an account on others, through real servers: they let it pass, the proxy does not."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from forged import FORGERIES, NO_FORGERIES

from real.certs import Authority
from real.ejabberd import EjabberdCluster
from real.programs import DOMAIN, HOST, PASSWORD, Need, require
from real.prosody import ProsodyNode
from real.proxy import open_proxy
from real.raw import RawClient, open_raw

pytestmark = pytest.mark.real

USERS = ("mallory", "victim", "bystander")


@asynccontextmanager
async def _open_node(server: str, folder: Path) -> AsyncIterator[int]:
    """A real server with these users; the port of its listener, which is plain."""
    if server == "prosody":
        require(Need.PROSODY)
        async with ProsodyNode(folder / "node", users=USERS) as node:
            yield node.port
    else:
        require(Need.EJABBERD)
        async with EjabberdCluster(folder / "cluster", users=USERS, size=1) as cluster:
            yield cluster.nodes[0].port


@asynccontextmanager
async def _open_plain(port: int) -> AsyncIterator[RawClient]:
    """A client that goes around the proxy."""
    tcp = await trio.open_tcp_stream(HOST, port)
    try:
        yield RawClient(tcp)
    finally:
        with trio.CancelScope(shield=True):  # closing a TCP stream does not block
            await tcp.aclose()


def _addressed(tag: str) -> bytes:
    """A pattern for a whole stanza with that id, be it empty or not."""
    return rf"<(\w+)(?=[^>]* id=['\"]{tag}['\"])[^>]*(?:/>|>.*?</\1>)".encode()


@pytest.mark.parametrize("server", ["prosody", "ejabberd"])
async def test_forged_transfers_reach_nobody_behind_the_proxy(
    server: str, tmp_path: Path, authority: Authority
) -> None:
    with trio.fail_after(300):
        async with (
            _open_node(server, tmp_path) as node,
            open_proxy(tmp_path, [f"node1 {HOST}:{node}"], authority.issue(DOMAIN, HOST)) as proxy,
            open_raw(proxy.port) as victim,
            open_raw(proxy.port) as inside,
            _open_plain(node) as outside,
            _open_plain(node) as bystander,
        ):
            to, unprotected = await victim.login("victim"), await bystander.login("bystander")
            await inside.login("mallory", resource="inside")
            await outside.login("mallory", resource="outside")
            sent = 0
            for name, form in FORGERIES.items():
                for attacker in (inside, outside):
                    sent += 1
                    await attacker.send(form.format(to=to, host="evil.example", id=f"f{sent}"))
                    found = await attacker.read_until(_addressed(f"f{sent}"))
                    assert b"<not-allowed" in found[0], name
                    assert re.search(rb" type=['\"]error['\"]", found[0]), name
                # The server itself lets it pass: without a proxy it arrives.
                await inside.send(form.format(to=unprotected, host="evil.example", id=f"b{sent}"))
                await bystander.read_until(_addressed(f"b{sent}"))
            for number, (name, form) in enumerate(NO_FORGERIES.items()):
                await outside.send(form.format(to=to, host="elsewhere.example", id=f"n{number}"))
                found = await victim.read_until(_addressed(f"(?:urn:xmpp:cxfr:)?n{number}"))
                assert b"cxfr" in found[0] or b"&#58;" in found[0], name
            assert b"evil.example" not in victim.received
            (row,) = await proxy.show("nodes")
            assert row["forged"] == sent
            assert 0 < len(await proxy.event("forged-transfer")) <= sent, "the rest of a minute's are summed up"


def _plain(authzid: str) -> str:
    return base64.b64encode(f"{authzid}\0mallory\0{PASSWORD}".encode()).decode()


async def _who_am_i(client: RawClient) -> str:
    await client.open()
    await client.send("<iq type='set' id='bind1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
    jid = await client.read_until(rb"<jid>([^<]+)</jid>.*</iq>")
    return jid[1].decode().partition("/")[0]


_SASL = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"
_SUCCESS = rb"<success[^>]*(?:/>|</success>)"
_FAILURE = rb"<failure.*?</failure>"


async def _try_as(client: RawClient, authzid: str) -> bytes:
    """Return the result of logging in by PLAIN with mallory's password as ``authzid``."""
    client.received = b""
    await client.send(f"<auth {_SASL} mechanism='PLAIN'>{_plain(authzid)}</auth>")
    return (await client.read_until(_SUCCESS + b"|" + _FAILURE))[0]


async def test_nobody_logs_in_as_somebody_else_with_a_password_of_his_own(tmp_path: Path, authority: Authority) -> None:
    """Debian's ejabberd (23.01) lets everybody do so."""
    with trio.fail_after(300):
        async with _open_node("ejabberd", tmp_path) as node:
            lines, certificate = [f"node1 {HOST}:{node}"], authority.issue(DOMAIN, HOST)
            async with (
                open_proxy(tmp_path, lines, certificate, options=["--sasl-authzid", "allow"]) as proxy,
                open_raw(proxy.port) as client,
            ):
                await client.open()
                assert b"<success" in await _try_as(client, "victim")
                assert await _who_am_i(client) == f"victim@{DOMAIN}"
            async with open_proxy(tmp_path, lines, certificate) as proxy, open_raw(proxy.port) as client:
                await client.open()
                for authzid in ("victim", f"victim@{DOMAIN}", f"mallory@{DOMAIN}/x"):
                    assert b"<invalid-authzid" in await _try_as(client, authzid)
                assert b"<success" in await _try_as(client, f"mallory@{DOMAIN}")
                assert await _who_am_i(client) == f"mallory@{DOMAIN}"


@pytest.mark.parametrize("server", ["prosody", "ejabberd"])
async def test_an_exchange_with_a_real_node_is_aborted_and_another_follows(
    server: str, tmp_path: Path, authority: Authority
) -> None:
    """Neither server waits for what a client did not say at once; so the second message of SCRAM is the wrong one."""
    with trio.fail_after(300):
        async with (
            _open_node(server, tmp_path) as node,
            open_proxy(tmp_path, [f"node1 {HOST}:{node}"], authority.issue(DOMAIN, HOST)) as proxy,
            open_raw(proxy.port) as client,
        ):
            await client.open()
            good, bad = (base64.b64encode(b"n,%b,n=mallory,r=abcdefgh" % a).decode() for a in (b"", b"a=victim"))
            await client.send(f"<auth {_SASL} mechanism='SCRAM-SHA-1'>{good}</auth>")
            await client.read_until(rb"<challenge[^>]*>.*</challenge>")
            await client.send(f"<response {_SASL}>{bad}</response>")
            failure = await client.read_until(_FAILURE)
            assert b"<invalid-authzid" in failure[0]
            assert b"<success" in await _try_as(client, "")
            assert await _who_am_i(client) == f"mallory@{DOMAIN}"
