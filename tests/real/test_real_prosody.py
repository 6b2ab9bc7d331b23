"""The proxy in front of two real Prosody nodes of one domain, which know nothing of each other.

Nothing the proxy says of itself is believed: who is where, and what arrived, is read from taps and clients.
"""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import trio

from real.accounting import Balance, balance
from real.certs import Authority
from real.crowd import Crowd, crowd_users, open_crowd, users_on
from real.programs import DOMAIN, HOST, Need, free_port, require
from real.prosody import ProsodyNode
from real.proxy import ProxyProcess, open_proxy
from real.raw import open_raw
from real.tap import Tap, open_tap
from real.wire import Chunk, read_stream

pytestmark = pytest.mark.real

_EACH: Final = 10
"""Clients of each library."""
_CHAT_SECONDS: Final = 1.0
"""How long everybody chats before and after what the test is about, at 30 messages a second each."""


@dataclass(frozen=True, slots=True)
class _Site:
    """Two nodes, each behind its tap, and the proxy in front of the taps."""

    nodes: Sequence[ProsodyNode]
    taps: Sequence[Tap]
    proxy: ProxyProcess


@asynccontextmanager
async def _open_site(
    folder: Path,
    authority: Authority,
    users: Sequence[str],
    *,
    public: Sequence[str] | None = None,
    port: int | None = None,
    line: str = "",
    options: Sequence[str] = (),
) -> AsyncIterator[_Site]:
    """``public``: the addresses where clients of node1 and node2 are sent; ``None`` leaves them out. ``line``: what
    else stands on the nodes' lines."""
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(ProsodyNode(folder / name, users=users)) for name in ("node1", "node2")
        ]
        taps = [await stack.enter_async_context(open_tap(node.port)) for node in nodes]
        lines = [
            f"node{n} {tap.address} {line}" + (f" public={public[n - 1]}" if public is not None else "")
            for n, tap in enumerate(taps, start=1)
        ]
        proxy = await stack.enter_async_context(
            open_proxy(folder, lines, authority.issue(DOMAIN, HOST), port=port, options=options)
        )
        yield _Site(nodes, taps, proxy)


async def _chat_and_move(crowd: Crowd, site: _Site, move: Callable[[], Awaitable[None]]) -> tuple[list[str], Balance]:
    """Everybody logs in and chats within a node; ``move`` empties node1 meanwhile; then all chat on node2.

    Returns who had to move, and the account.
    """
    first, second = site.taps
    await crowd.connect(site.proxy.port)
    on_first, on_second = users_on(first, site.taps), users_on(second, site.taps)
    assert sorted(on_first + on_second) == sorted(crowd.users)
    assert on_first, "nobody was placed on node1"

    since = crowd.marks()
    await crowd.chat([on_first, on_second], tag="before")
    await trio.sleep(_CHAT_SECONDS)
    await move()
    await crowd.wait_back(on_first, since=since)
    await crowd.hush()
    assert users_on(second, site.taps) == sorted(crowd.users), "not everybody is on node2"

    await crowd.chat([crowd.users], tag="after", count=10)
    received = await crowd.wait_received("after", 10 * len(crowd.users))
    await crowd.assert_streams_whole()
    account = await crowd.balance(site.taps)
    print(f"moved={len(on_first)} {account}")
    assert received == 10 * len(crowd.users), account.faults or account
    return on_first, account


@pytest.mark.parametrize("redirected", [False, True], ids=["reset", "see-other-host"])
async def test_drain_moves_everybody_and_loses_nothing(
    redirected: bool, tmp_path: Path, logs: Path, authority: Authority
) -> None:
    """``redirected``: the nodes' public address is the proxy's own, so clients are sent back here by see-other-host."""
    require(Need.PROSODY, Need.SLIXMPP, Need.AIOXMPP)
    users = crowd_users(_EACH)
    port = free_port()
    public = [f"{HOST}:{port}"] * 2 if redirected else None
    names = [user for of_library in users.values() for user in of_library]
    with trio.fail_after(300):
        async with (
            _open_site(tmp_path, authority, names, public=public, port=port) as site,
            open_crowd(logs, users) as crowd,
        ):

            async def drain() -> None:
                done = await site.proxy.drain("node1")
                assert done.code == 0, done.output

            moved, account = await _chat_and_move(crowd, site, drain)
            assert not account.faults
            assert account.asked >= len(moved), "the clients were not asked by XEP-0051 first"
            assert account.up > 100
            assert account.down > 100


@pytest.mark.parametrize("ending", ["sigterm", "sigkill"])
async def test_a_node_that_ends_moves_everybody(ending: str, tmp_path: Path, logs: Path, authority: Authority) -> None:
    require(Need.PROSODY, Need.SLIXMPP, Need.AIOXMPP)
    users = crowd_users(_EACH)
    names = [user for of_library in users.values() for user in of_library]
    with trio.fail_after(300):
        async with _open_site(tmp_path, authority, names) as site, open_crowd(logs, users) as crowd:
            node = site.nodes[0]
            _, account = await _chat_and_move(crowd, site, node.stop if ending == "sigterm" else node.kill)
            assert not account.faults


async def test_a_node_that_is_stopped_is_left_and_its_users_chat_on(
    tmp_path: Path, logs: Path, authority: Authority
) -> None:
    """SIGSTOP: it accepts, and says nothing. Stanzas that were sent to it meanwhile are lost, so all are silent; then
    it is back, and no check has left a trace in its log."""
    require(Need.PROSODY, Need.SLIXMPP, Need.AIOXMPP)
    users = crowd_users(_EACH)
    names = [user for of_library in users.values() for user in of_library]
    options = ("--domain", DOMAIN, "--cxfr-timeout", "2s")
    async with (
        _open_site(tmp_path, authority, names, line="inter=1s", options=options) as site,
        open_crowd(logs, users) as crowd,
    ):
        with trio.fail_after(300):
            first, second = site.taps
            stopped = site.nodes[0].process
            assert stopped is not None
            await crowd.connect(site.proxy.port)
            on_first = users_on(first, site.taps)
            assert on_first, "nobody was placed on node1"
            since = crowd.marks()
            stopped.send_signal(signal.SIGSTOP)
            try:
                await crowd.wait_back(on_first, since=since)
            finally:
                stopped.send_signal(signal.SIGCONT)
            assert users_on(second, site.taps) == sorted(crowd.users), "not everybody is on node2"
            (given_up,) = await site.proxy.event("node-given-up")
            assert (given_up["node"], given_up["session_outlook"]) == ("node1", "dead")
            transfers = await site.proxy.event("transfer", len(on_first))
            assert {(each["source"], each["trigger"]) for each in transfers} == {("node1", "node-down")}
            assert len(transfers) == len(on_first)
            await crowd.chat([crowd.users], tag="after", count=10)
            assert await crowd.wait_received("after", 10 * len(crowd.users)) == 10 * len(crowd.users)
            await crowd.assert_streams_whole()
            await site.proxy.event("node-up")
            for node in site.nodes:
                assert not re.findall(r"^.*\b(?:warn|error)\t.*$", node.log.read_text("utf-8"), re.MULTILINE)


def _message(to: str, number: int | str) -> str:
    return f"<message type='chat' id='m{number}' to='{to}'><body>{number}</body></message>"


async def _drained_node(site: _Site, jid: str) -> int:
    """The index of the node on which ``jid`` is, whose drain is begun."""
    (index,) = [i for i, tap in enumerate(site.taps) if jid.partition("@")[0] in users_on(tap, site.taps)]
    done = await site.proxy.drain(f"node{index + 1}", wait=False)
    assert done.code == 0, done.output
    return index


_PUBLIC: Final = ["node1.example.org:6222", "node2.example.org:6222"]


@pytest.mark.parametrize("starttls", [False, True], ids=["direct", "starttls"])
async def test_a_client_reads_the_transfer_between_two_stanzas_then_see_other_host(
    starttls: bool, tmp_path: Path, authority: Authority
) -> None:
    """XEP-0051, listing 3, made a legal IQ: with an id, to the full JID. The session lives on until the error."""
    require(Need.PROSODY)
    with trio.fail_after(300):
        async with (
            _open_site(tmp_path, authority, ["raw"], public=_PUBLIC) as site,
            open_raw(site.proxy.port, starttls=starttls) as client,
        ):
            jid = await client.login("raw")
            await client.send(_message(jid, 1))
            await client.read_until(rb"<body>1</body></message>$")
            server = _PUBLIC[1 - await _drained_node(site, jid)]
            await client.read_until(rb"</query></iq>")
            await client.send(_message(jid, 2))
            await client.read_until(rb"<body>2</body></message>$")
            request = await client.read_until(
                rb"<body>1</body></message>"
                rb"<iq xmlns='jabber:client' type='set' id='(urn:xmpp:cxfr:[^'<>&]+)' "
                rb"from='xmpp\.test' to='raw@xmpp\.test/r'>"
                rb"<query xmlns='urn:xmpp:cxfr'><domain>xmpp\.test</domain>"
                rb"<server>" + server.replace(".", r"\.").encode() + rb"</server></query></iq>"
                rb"<message "
            )
            answer_id = request[1].decode()
            await client.send(
                f"<iq type='error' id='{answer_id}' to='{DOMAIN}'><error type='cancel'><service-unavailable "
                "xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
            )
            await client.read_until(
                rb"<see-other-host xmlns=['\"]urn:ietf:params:xml:ns:xmpp-streams['\"]>"
                + server.encode()
                + rb"</see-other-host>.*</stream:stream>$"
            )
            down = read_stream([Chunk(0.0, client.received)])
            assert down.fault is None
            assert down.stream_error is not None
            assert down.stream_error.condition == "see-other-host"
            await client.send("</stream:stream>")
            await client.read_to_end()

            account = balance(jid, [leg for tap in site.taps for leg in tap.connections], [client.recording])
            assert not account.faults
            assert account.asked == 1
            assert [e.id for e in account.swallowed] == [answer_id], "the node must not see the answer"


async def test_a_client_that_closes_its_stream_itself_loses_nothing(tmp_path: Path, authority: Authority) -> None:
    """All it wrote before its closing tag reaches the node, and all that the node says reaches it before the end."""
    require(Need.PROSODY)
    with trio.fail_after(300):
        async with (
            _open_site(tmp_path, authority, ["raw"], public=_PUBLIC) as site,
            open_raw(site.proxy.port) as client,
        ):
            jid = await client.login("raw")
            await _drained_node(site, jid)
            request = await client.read_until(rb"<iq [^>]*id='([^']+)'[^>]*><query xmlns='urn:xmpp:cxfr'>.*</iq>")
            burst = "".join(_message(jid, number) for number in range(200))
            await client.send(f"<iq type='result' id='{request[1].decode()}'/>{burst}</stream:stream>")
            await client.read_to_end()

            account = balance(jid, [leg for tap in site.taps for leg in tap.connections], [client.recording])
            assert not account.faults
            assert not account.late
            assert not account.answered
            assert client.recording.read_down().ended_at is not None
            assert len(client.recording.read_up().message_ids) == 200


# -- TLS between proxy and node --------------------------------------------------------------------------------------


@asynccontextmanager
async def _open_tls_site(
    folder: Path, authority: Authority, leg: str, *, ca: Path, verify_name: str
) -> AsyncIterator[tuple[Tap, ProxyProcess]]:
    """One node that demands TLS, so that a login through it is proof of TLS. ``leg``: ``starttls`` or ``direct``."""
    certificate = authority.issue(DOMAIN)
    async with ProsodyNode(folder / "node1", users=["raw"], certificate=certificate) as node:
        assert node.direct_tls_port is not None
        port = node.direct_tls_port if leg == "direct" else node.port
        async with open_tap(port) as tap:
            line = f"node1 {tap.address} tls={leg} ca={ca} verify-name={verify_name}"
            async with open_proxy(folder, [line], authority.issue(DOMAIN, HOST)) as proxy:
                yield tap, proxy


@pytest.mark.parametrize("leg", ["starttls", "direct"])
async def test_node_leg_over_tls(leg: str, tmp_path: Path, authority: Authority) -> None:
    require(Need.PROSODY)
    with trio.fail_after(300):
        async with (
            _open_tls_site(tmp_path, authority, leg, ca=authority.file, verify_name=DOMAIN) as (tap, proxy),
            open_raw(proxy.port) as client,
        ):
            jid = await client.login("raw")
            await client.send(_message(jid, "through"))
            await client.read_until(rb"<body>through</body></message>$")
            assert not any(b"<auth" in leg.up for leg in tap.connections), "the password passed in plain"
            await client.send("</stream:stream>")
            await client.read_to_end()


@pytest.mark.parametrize("leg", ["starttls", "direct"])
@pytest.mark.parametrize("wrong", ["ca", "name"])
async def test_node_leg_is_refused_where_the_certificate_is_not_the_nodes(
    leg: str, wrong: str, tmp_path: Path, authority: Authority
) -> None:
    require(Need.PROSODY)
    ca = Authority(tmp_path / "other").file if wrong == "ca" else authority.file
    name = "elsewhere.test" if wrong == "name" else DOMAIN
    with trio.fail_after(300):
        async with (
            _open_tls_site(tmp_path, authority, leg, ca=ca, verify_name=name) as (tap, proxy),
            open_raw(proxy.port) as client,
        ):
            with pytest.raises(AssertionError, match="the stream ended"):
                await client.login("raw")
            assert b"<stream:error" in client.received
            assert not any(b"<auth" in leg.up for leg in tap.connections)
