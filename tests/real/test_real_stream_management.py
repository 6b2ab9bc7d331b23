"""XEP-0198 through the proxy, between real clients and real nodes: an ejabberd cluster, which shares its sessions."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import trio
from waiting import until

from real.certs import Authority
from real.clients.fleet import Library
from real.ejabberd import EjabberdCluster
from real.programs import DOMAIN, HOST, PASSWORD, Need, require
from real.prosody import ProsodyNode
from real.proxy import ProxyProcess, open_proxy
from real.raw import RawClient, open_raw
from real.site import EACH, open_site

pytestmark = pytest.mark.real

_RESOURCE: Final = "r"
_LOST_IN_HAND_OVER: Final = 2
"""Messages, of some hundreds: what ejabberd may lose between its nodes as four sessions are fetched at once."""


async def test_a_drain_takes_sessions_along_where_nodes_share_them(
    tmp_path: Path, logs: Path, authority: Authority
) -> None:
    """All on one node are cut in the middle of a chat and resume on the other one: as themselves, and with everything
    that was under way or came for them meanwhile.

    Without aioxmpp: a client of it that writes in the very moment in which its connection ends gives up for good, or
    forgets the stanza (a RuntimeError of its transport). And quietly: what comes for a session while one ejabberd node
    hands it over to the other can get lost between the two, one message in some ten runs.
    """
    require(Need.EJABBERD, Need.SLIXMPP)
    with trio.fail_after(300):
        async with open_site(tmp_path, logs, authority, options="resume=shared", libraries=[Library.SLIXMPP]) as site:
            await site.connect()
            before = await site.homes()
            moving = {user for user, node in before.items() if node == "node1"}
            assert 0 < len(moving) < len(before) == EACH
            since = site.marks()
            await site.chat("during", rate=5.0)
            await trio.sleep(1.0)
            done = await site.proxy.drain("node1")
            assert done.code == 0, done.output
            await until(lambda: set(site.connected_again(since)) >= moving, "everybody to be back")
            await trio.sleep(1.0)
            await site.hush()
            await site.chat("after", count=5)
            messages = await site.assert_all_arrived_once(lost_by_nodes=_LOST_IN_HAND_OVER)
            assert site.connected_again(since) == {user: [True] for user in moving}
            assert set((await site.homes()).values()) == {"node2"}
            await site.cluster.nodes[0].stop()
            await site.chat("without", count=5)
            messages = await site.assert_all_arrived_once(lost_by_nodes=_LOST_IN_HAND_OVER)
            print(f"moved={len(moving)} messages={messages} drain={done.seconds:.1f}s")
            assert len(site.connected_again(since)) == len(moving), "nobody needs the old node any more"


# --- one client by hand, which counts what it really gets

_SM: Final = "urn:xmpp:sm:3"
_SUPPORT: Final = (
    f"<iq type='result' id='caps' to='{DOMAIN}'><query xmlns='http://jabber.org/protocol/disco#info'>"
    "<feature var='urn:xmpp:cxfr'/></query></iq>"
)


class Counting:
    """A raw client that counts: ``up`` what it has sent, ``down`` what it has got, since it enabled XEP-0198."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.resumable_id = ""
        self._up = self._down = 0
        self._before_up = self._before_down = 0

    @property
    def up(self) -> int:
        return self._before_up + len(self.client.recording.read_up().stanzas) - self._up

    @property
    def down(self) -> int:
        return self._before_down + len(self.client.recording.read_down().stanzas) - self._down

    def _begin(self, up: int, down: int) -> None:
        self._up, self._down = (
            len(transcript.stanzas)
            for transcript in (self.client.recording.read_up(), self.client.recording.read_down())
        )
        self._before_up, self._before_down = up, down

    async def enable(self) -> None:
        await self.client.send(f"<enable xmlns='{_SM}' resume='true'/>")
        enabled = await self.client.read_until(rb"<enabled [^>]*>")
        found = re.search(rb"\bid=['\"]([^'\"]+)", enabled[0])
        assert found is not None
        assert b"location" not in enabled[0]
        self.resumable_id = found[1].decode()
        self._begin(0, 0)

    async def acknowledge(self) -> None:
        """Say the count. ejabberd ends the stream if it is too high, and that would be seen by the answer."""
        await self.client.send(f"<a xmlns='{_SM}' h='{self.down}'/>")
        await self.request()

    async def request(self) -> None:
        """Ask for the count, which has to be ours."""
        self.client.received = b""
        await self.client.send(f"<r xmlns='{_SM}'/>")
        ack = await self.client.read_until(rb"<a [^>]*?h=['\"]([0-9]+)['\"][^>]*>")
        assert int(ack[1]) == self.up

    async def authenticate(self, user: str) -> None:
        await self.client.open()
        secret = base64.b64encode(f"\0{user}\0{PASSWORD}".encode()).decode()
        await self.client.send(f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{secret}</auth>")
        await self.client.read_until(rb"<success[^>]*(?:/>|</success>)")
        await self.client.open()

    async def resume(self, old: Counting) -> bool:
        """Take up what ``old`` was; whether that was granted."""
        await self.client.send(f"<resume xmlns='{_SM}' previd='{old.resumable_id}' h='{old.down}'/>")
        answer = await self.client.read_until(rb"<(resumed|failed)[^>]*?(?:\bh=['\"]([0-9]+)['\"])?[^>]*>")
        if answer[1] == b"failed":
            return False
        h = re.search(rb"\bh=['\"]([0-9]+)", answer[0])
        assert h is not None
        assert int(h[1]) == old.up
        assert f"previd='{old.resumable_id}'".encode() in answer[0].replace(b'"', b"'")
        self.resumable_id = old.resumable_id
        self._begin(old.up, old.down)
        # What was sent again in the same breath came behind the answer.
        behind = self.client.received.partition(answer[0])[2]
        self._before_down += len(re.findall(rb"<(?:message|iq|presence)[ >]", behind))
        return True


async def _node_of(proxy: ProxyProcess, jid: str) -> str:
    return next(str(row["node"]) for row in await proxy.show("sessions") if row["jid"] == jid)


async def _worker_of(proxy: ProxyProcess, jid: str | None) -> int:
    """Return which of two serves that session, or the only one that has not logged in (``None``): ids are dealt out in
    turn."""
    (number,) = [row["id"] for row in await proxy.show("sessions") if row["jid"] == jid]
    return int(number) % 2


async def _authenticated_elsewhere(proxy: ProxyProcess, user: str, not_at: int, stack: AsyncExitStack) -> Counting:
    """A client at the other worker: the kernel deals them out, so it may take some."""
    while True:
        async with AsyncExitStack() as attempt:
            counting = Counting(await attempt.enter_async_context(open_raw(proxy.port)))
            await counting.authenticate(user)
            if await _worker_of(proxy, None) != not_at:
                stack.push_async_exit(attempt.pop_all())
                return counting
        await trio.sleep(0.2)


@asynccontextmanager
async def _open_pair(
    folder: Path, authority: Authority, *, mode: str, workers: int = 1, placement: str = "rendezvous"
) -> AsyncIterator[tuple[EjabberdCluster, ProxyProcess]]:
    async with EjabberdCluster(folder / "cluster", users=["juliet", "romeo"]) as cluster:
        lines = [f"node{n} {HOST}:{node.port} resume=shared" for n, node in enumerate(cluster.nodes, start=1)]
        certificate = authority.issue(DOMAIN, HOST)
        options = ["--sm-after-transfer", mode, "--workers", str(workers), "--placement", placement]
        async with open_proxy(folder, lines, certificate, options=options) as proxy:
            yield cluster, proxy


def _message(to: str, body: str) -> str:
    return f"<message to='{to}' type='chat' id='{body}'><body>{body}</body></message>"


@pytest.mark.parametrize(("mode", "workers"), [("end", 1), ("wrap", 1), ("wrap", 2)])
async def test_counts_are_right_while_a_client_is_asked_and_afterwards(
    mode: str, workers: int, tmp_path: Path, authority: Authority
) -> None:
    """A client that knows XEP-0051 is asked, answers, and is lost. By default its session is over, and it learns so;
    with ids of the proxy's own it resumes on the other node, and what came for it meanwhile is there. With two workers
    it comes back to the other one."""
    require(Need.EJABBERD)
    with trio.fail_after(300):
        async with AsyncExitStack() as stack:
            _, proxy = await stack.enter_async_context(_open_pair(tmp_path, authority, mode=mode, workers=workers))
            romeo = await stack.enter_async_context(open_raw(proxy.port))
            await romeo.login("romeo")
            async with open_raw(proxy.port) as client:
                jid = await client.login("juliet")
                juliet = Counting(client)
                await juliet.enable()
                await client.send(_SUPPORT)
                await client.send(_message(jid, "one"))
                await client.read_until(rb"<body>one</body></message>")
                await juliet.acknowledge()
                node, worker = await _node_of(proxy, jid), await _worker_of(proxy, jid)
                await proxy.drain(node, wait=False)
                asked = await client.read_until(rb"<iq [^>]*id='([^']+)'[^>]*><query xmlns='urn:xmpp:cxfr'>.*?</iq>")
                await juliet.acknowledge()
                await client.send(f"<iq type='result' id='{asked[1].decode()}' to='{DOMAIN}'/>{_message(jid, 'two')}")
                await client.read_until(rb"<body>two</body></message>")
                for _ in range(2):
                    await juliet.acknowledge()
            await proxy.event("transfer")
            await romeo.send(_message(jid, "meanwhile"))
            async with AsyncExitStack() as later:
                if workers == 1:
                    again = Counting(await later.enter_async_context(open_raw(proxy.port)))
                    await again.authenticate("juliet")
                else:
                    again = await _authenticated_elsewhere(proxy, "juliet", worker, later)
                client = again.client
                granted = await again.resume(juliet)
                assert granted == (mode == "wrap")
                if granted:
                    await client.read_until(rb"<body>meanwhile</body></message>")
                    assert await _node_of(proxy, jid) != node
                    await again.acknowledge()
                    await client.send(_message(jid, "three"))
                    await client.read_until(rb"<body>three</body></message>")
                    await again.acknowledge()
                else:
                    await client.send(
                        "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>"
                        "<resource>r</resource></bind></iq>"
                    )
                    await client.read_until(rb"<jid>" + jid.encode() + rb"</jid>")
                    await again.enable()
                    await again.acknowledge()


async def test_a_client_that_is_cut_and_away_for_a_while_misses_nothing(tmp_path: Path, authority: Authority) -> None:
    require(Need.EJABBERD)
    with trio.fail_after(300):
        # Each on a node of its own.
        pair = _open_pair(tmp_path, authority, mode="end", placement="least-sessions")
        async with pair as (cluster, proxy), open_raw(proxy.port) as romeo:
            romeo_jid = await romeo.login("romeo")
            async with open_raw(proxy.port) as client:
                jid = await client.login("juliet")
                juliet = Counting(client)
                await juliet.enable()
                node = await _node_of(proxy, jid)
                assert await _node_of(proxy, romeo_jid) != node
                await proxy.drain(node, wait=False)
                await client.read_to_end()
                assert b"stream:error" not in client.received
                assert b"</stream:stream>" not in client.received
            for number in range(20):
                await romeo.send(_message(jid, f"gap{number}"))
            async with open_raw(proxy.port) as client:
                again = Counting(client)
                await again.authenticate("juliet")
                assert await again.resume(juliet)
                await client.read_until(rb"<body>gap19</body></message>")
                assert re.findall(rb"<body>(gap[0-9]+)</body>", client.received) == [
                    f"gap{number}".encode() for number in range(20)
                ]
                assert await _node_of(proxy, jid) != node
                await cluster.nodes[int(node[-1]) - 1].stop()
                await again.acknowledge()


async def test_a_client_that_was_lost_is_led_back_to_its_node(tmp_path: Path, authority: Authority) -> None:
    """Placement would send it to the other node, which has nobody then."""
    require(Need.EJABBERD)
    with trio.fail_after(300):
        async with (
            _open_pair(tmp_path, authority, mode="end", placement="least-sessions") as (_, proxy),
            AsyncExitStack() as stays,
        ):
            async with AsyncExitStack() as leaves:
                first = await leaves.enter_async_context(open_raw(proxy.port))
                await first.login("romeo", resource="first")
                client = await leaves.enter_async_context(open_raw(proxy.port))
                jid = await client.login("juliet")
                for resource, stack in (("third", leaves), ("fourth", stays)):
                    other = await stack.enter_async_context(open_raw(proxy.port))
                    await other.login("romeo", resource=resource)
                juliet = Counting(client)
                await juliet.enable()
                home = await _node_of(proxy, jid)
                assert home == await _node_of(proxy, f"romeo@{DOMAIN}/fourth")
            await proxy.event("session-end", 3)  # those that leave are gone
            async with open_raw(proxy.port) as client:
                again = Counting(client)
                await again.authenticate("juliet")
                assert await again.resume(juliet)
                assert await _node_of(proxy, jid) == home
                await again.acknowledge()


async def test_new_workers_take_up_the_sessions_of_old_ones(tmp_path: Path, authority: Authority) -> None:
    """Replacing the workers cuts everybody; who comes back is led to its node, and not to the first one."""
    require(Need.EJABBERD)
    with trio.fail_after(300):
        async with _open_pair(tmp_path, authority, mode="wrap", workers=2, placement="least-sessions") as (_, proxy):
            async with open_raw(proxy.port) as client:
                async with open_raw(proxy.port) as first:
                    await first.login("romeo")
                    jid = await client.login("juliet")
                juliet = Counting(client)
                await juliet.enable()
                assert await _node_of(proxy, jid) == "node2"
                await proxy.command("restart-workers")
                await client.read_to_end()
            await proxy.event("restart-ends")
            async with open_raw(proxy.port) as client:
                again = Counting(client)
                await again.authenticate("juliet")
                assert await again.resume(juliet)
                assert await _node_of(proxy, jid) == "node2"
                await again.acknowledge()


async def test_what_a_node_did_not_acknowledge_before_it_died_is_not_acknowledged(
    tmp_path: Path, authority: Authority
) -> None:
    """In front of Prosody, killed while its client is asked: the counts were right up to then, and stay at that."""
    require(Need.PROSODY)
    with trio.fail_after(300):
        async with AsyncExitStack() as stack:
            prosody = await stack.enter_async_context(
                ProsodyNode(tmp_path / "prosody", users=["juliet"], stream_management=True)
            )
            lines = [f"{name} {HOST}:{prosody.port}" for name in ("node1", "node2")]
            proxy = await stack.enter_async_context(open_proxy(tmp_path, lines, authority.issue(DOMAIN, HOST)))
            client = await stack.enter_async_context(open_raw(proxy.port))
            jid = await client.login("juliet")
            juliet = Counting(client)
            await juliet.enable()
            await client.send(_SUPPORT)
            await client.send(_message(jid, "one"))
            await client.read_until(rb"<body>one</body></message>")
            await juliet.acknowledge()
            await proxy.drain(await _node_of(proxy, jid), wait=False)
            asked = await client.read_until(rb"<iq [^>]*id='([^']+)'[^>]*><query xmlns='urn:xmpp:cxfr'>.*?</iq>")
            await client.send(f"<iq type='result' id='{asked[1].decode()}' to='{DOMAIN}'/>{_message(jid, 'two')}")
            await client.read_until(rb"<body>two</body></message>")
            await juliet.acknowledge()
            acknowledged = juliet.up
            await prosody.kill()
            await client.send(_message(jid, "three"))
            for _ in range(2):
                await trio.sleep(0.3)
                client.received = b""
                await client.send(f"<r xmlns='{_SM}'/>")
                ack = await client.read_until(rb"<a [^>]*?h=['\"]([0-9]+)['\"][^>]*>")
                assert int(ack[1]) == acknowledged == juliet.up - 1
