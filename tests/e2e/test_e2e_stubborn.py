"""A drain of clients that do not do as they are asked, with the real command: each has its end before the deadline.

They are on one node, in front of nodes that share sessions: so one that is back with its resource before it has left is
seen by the node as the same client, whose old stream it ends with ``conflict``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from e2e_proxy import Raw, connect
from e2e_workers import World, world

from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.xmpp.connection_transfer import ID_PREFIX
from cxfr_proxy.xmpp.stanza import STREAM_END, Element

pytestmark = pytest.mark.usefixtures("engines")

BODY = "x" * 100_000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


# --- what they do once they are asked


async def say(raw: Raw, request: Element, kind: str = "result") -> None:
    await raw.send(f"<iq type='{kind}' id='{request.get('id')}' to='localhost'/>")


async def nothing(it: World, raw: Raw, request: Element) -> None:
    await trio.lowlevel.checkpoint()


async def yes_and_nothing(it: World, raw: Raw, request: Element) -> None:
    await say(raw, request)


async def no(it: World, raw: Raw, request: Element) -> None:
    await say(raw, request, "error")


async def closing(it: World, raw: Raw, request: Element) -> None:
    await raw.send(STREAM_END)


async def back_before_it_has_left(it: World, raw: Raw, request: Element) -> None:
    await say(raw, request)
    user, _, resource = (request.get("to") or "").partition("@localhost/")
    again = await connect(it.proxy.address, it.certificate.client_context())
    await again.log_in(user, resource=resource)
    assert await raw.error() == "conflict"
    assert await it.pings(again)


async def upload(raw: Raw) -> int:
    """A stanza has begun, and others follow, until nobody listens any more; how many were begun."""
    sent = 0
    with contextlib.suppress(trio.BrokenResourceError):
        while True:
            sent += 1
            await raw.send(f"<message to='echo.localhost' id='u{sent}'><body>{BODY[:50_000]}")
            await trio.sleep(0.02)
            await raw.send(f"{BODY[50_000:]}</body></message>")
    return sent


async def hear(raw: Raw, heard: list[Element]) -> None:
    """Everything up to the end."""
    with contextlib.suppress(trio.BrokenResourceError):
        while isinstance(incoming := await raw.read(), Element):
            heard.append(incoming)


async def uploading(it: World, raw: Raw, request: Element) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear, raw, [])
        await upload(raw)


DOES: dict[str, Callable[[World, Raw, Element], Awaitable[None]]] = {
    "silent": nothing,
    "stays": yes_and_nothing,
    "refuses": no,
    "closes": closing,
    "make-before-break": back_before_it_has_left,
    "uploads": uploading,
}
TRIED = {
    "silent": "cxfr:silent,reset:moved",
    "stays": "cxfr:stayed,reset:moved",
    "refuses": "cxfr:refused,reset:moved",
    "closes": "cxfr:moved",
    "make-before-break": "cxfr:moved",
    "uploads": "cxfr:silent,reset:moved",
}


async def populate(it: World) -> dict[str, Raw]:
    """All of them on node1, where alone somebody can be placed at the moment."""
    assert (await it.proxy.say("drain", "node2")).code == 0
    raws: dict[str, Raw] = {}
    for name in DOES:
        raws[name] = await connect(it.proxy.address, it.certificate.client_context())
        await raws[name].log_in(name)
    assert (await it.proxy.say("undrain", "node2")).code == 0
    return raws


async def act(it: World, name: str, raw: Raw, over: set[str]) -> None:
    request = await raw.element()
    assert (request.get("id") or "").startswith(ID_PREFIX)
    await DOES[name](it, raw, request)
    over.add(name)


@pytest.mark.parametrize("patient", [True, False])
async def test_each_has_its_end_before_the_deadline(
    tmp_path: Path, certificate: DemoCertificate, patient: bool
) -> None:
    """By the ladder's own times; or, where these are far too long, because the deadline leaves nobody."""
    timeout, deadline = ("3s", "5m") if patient else ("5m", "4s")
    async with world(tmp_path, certificate, "--cxfr-timeout", timeout, "--transfer-rate", "100") as it:
        raws, over = await populate(it), set[str]()
        async with trio.open_nursery() as acting:
            for name, raw in raws.items():
                acting.start_soon(act, it, name, raw, over)
            done = await it.proxy.say("drain", "node1", "--wait", "--deadline", deadline)
        assert done.code == 0, done.output
        assert over == set(DOES)
        tried = {
            event["jid"].partition("@")[0]: event["tried"] for event in await it.proxy.event("transfer", len(DOES))
        }
        assert tried == (TRIED if patient else {**TRIED, "stays": "cxfr:silent,reset:moved"})
        ended = {event["jid"].partition("@")[0]: event for event in await it.proxy.event("session-end", len(DOES))}
        assert {event["reason"] for event in ended.values()} == {"transferred"}
        assert {name: event["condition"] for name, event in ended.items() if event["condition"]} == {
            "make-before-break": "conflict"
        }
        assert it.proxy.silent_about("node-warning"), "the conflict is no fault"
        assert [session.full_jid for session in it.nodes[1].sessions] == ["make-before-break@localhost/r"]


async def test_every_stanza_of_an_upload_arrives_or_is_answered(tmp_path: Path, certificate: DemoCertificate) -> None:
    """Also the one in the middle of which the node's stream is closed; what crosses the end on the wire is counted."""
    async with world(tmp_path, certificate, "--cxfr-timeout", "300ms") as it:
        raw = await connect(it.proxy.address, it.certificate.client_context())
        jid = await raw.log_in("uploader")
        [node] = [node for node in it.nodes if node.sessions]
        heard: list[Element] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear, raw, heard)
            nursery.start_soon(it.proxy.say, "drain", node.name)
            sent = await upload(raw)
        echoed = [each.get("id") for each in heard if each.get("type") == "chat"]
        refused = [each.get("id") for each in heard if each.get("type") == "error"]
        assert len(echoed) > 3
        assert [*echoed, *refused] == [f"u{number + 1}" for number in range(len(echoed) + len(refused))]
        assert all("wait" in (each[0].get("type") or "") for each in heard if each.get("type") == "error")
        [ended] = await it.proxy.event("session-end")
        assert (ended["jid"], ended["reason"]) == (jid, "transferred")
        unanswered = sent - len(echoed) - len(refused)
        assert 0 < (ended["late"] or 0) <= unanswered, "the last ones may never have been read"


async def test_one_that_uploads_and_reads_nothing_is_given_up(tmp_path: Path, certificate: DemoCertificate) -> None:
    """It can't answer before it has read, so it is waited for longer than others: as for any that does not read."""
    async with world(tmp_path, certificate, "--cxfr-timeout", "300ms", "--write-stall-timeout", "2s") as it:
        raw = await connect(it.proxy.address, it.certificate.client_context())
        await raw.log_in("uploader")
        [node] = [node for node in it.nodes if node.sessions]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload, raw)
            await trio.sleep(1)
            done = await it.proxy.say("drain", node.name, "--wait", "--deadline", "12s")
        assert done.code == 0, done.output
        assert len(await it.proxy.event("session-end")) == 1
        assert not node.sessions
