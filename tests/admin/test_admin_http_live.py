"""The live view, and answers that go on."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import pytest
import trio
from fake_console import FakeConsole
from fake_site import SECRETS, TOKENS, FakeSite, ListSink, json_of
from msgspec.structs import replace
from trio.testing import MockClock

from cxfr_proxy.admin.commands.callers import Role
from cxfr_proxy.admin.feed import QUIET_SECONDS
from cxfr_proxy.admin.http import live, streams
from cxfr_proxy.admin.http.exchange import EventStream, HttpAnswer
from cxfr_proxy.admin.http.paths import EVENTS
from cxfr_proxy.admin.http.tokens import TokenList, make_token
from cxfr_proxy.admin.http.topics import TOPICS


class Events:
    """The events that have come, as a browser reads them."""

    def __init__(self, sink: ListSink) -> None:
        self._sink = sink
        self._taken = 0

    async def next(self) -> tuple[str, str | None, Any]:
        """Its name, its ID and its data; comments and ``retry`` are passed over."""
        while True:
            await self._sink.has(self._taken + 1)
            piece = self._sink.pieces[self._taken].decode()
            self._taken += 1
            assert piece.endswith("\n\n")
            fields = dict(line.split(": ", 1) for line in piece.split("\n") if line and not line.startswith(":"))
            if "data" in fields:
                return fields["event"], fields.get("id"), json.loads(fields["data"])


@asynccontextmanager
async def watching(site: FakeSite, role: Role = Role.VIEW, **headers: str) -> AsyncIterator[Events]:
    stream = await site.ask(EVENTS, role_=role, **headers)
    assert isinstance(stream, EventStream), stream
    sink = ListSink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_to, sink)
        yield Events(sink)
        nursery.cancel_scope.cancel()


async def all_topics(events: Events) -> dict[str, Any]:
    return {name: data for name, _, data in [await events.next() for _ in TOPICS]}


async def test_first_hello_then_everything_then_what_changes(autojump_clock: MockClock) -> None:
    site = FakeSite()
    async with watching(site, Role.OPERATE) as events:
        name, event_id, hello = await events.next()
        assert (name, event_id) == ("hello", None)
        assert (hello["name"], hello["role"], hello["topics"]) == ("operateer", "operate", list(TOPICS))
        first = await all_topics(events)
        assert first.keys() == TOPICS.keys()
        assert [row["name"] for row in first["nodes"]["rows"]] == ["node1", "node2"]
        assert first["drains"] == {"rows": []}
        site.fake.draining.add("node1")
        site.feed.changed()
        name, event_id, data = await events.next()
        assert name == "drains"
        assert [row["node"] for row in data["rows"]] == ["node1"]
        assert event_id is not None


def test_each_topic_has_rows_of_its_kind() -> None:
    for name, topic in TOPICS.items():
        assert name.isalpha()
        assert topic.help
        assert topic.row.__struct_config__.tag


async def test_it_is_looked_at_no_more_often_than_need_be(autojump_clock: MockClock) -> None:
    """Though something changes all the time, and many watch."""
    site = FakeSite()
    looks = 0
    original = site.live._note

    async def note(topic: str, rows: Any) -> None:
        nonlocal looks
        looks += topic == "nodes"
        await original(topic, rows)

    site.live._note = note  # type: ignore[method-assign]
    async with watching(site) as one, watching(site) as other:
        for events in (one, other):
            await events.next()
            await all_topics(events)
        began = trio.current_time()
        while trio.current_time() < began + 10:
            site.fake.sessions_count += 1
            site.feed.changed()
            await trio.sleep(0.01)
        assert 15 <= looks <= 22
        seen = [(await one.next())[2]["rows"][0]["sessions"] for _ in range(looks - 2)]
        assert seen == sorted(seen), "none of an older state behind a newer one"
    looks = 0
    await trio.sleep(60)
    assert looks == 0, "nobody watches"


async def test_who_goes_away_in_the_middle_of_a_look_makes_none_of_it_undone(autojump_clock: MockClock) -> None:
    """Or somebody who comes and goes would have the proxy look all the time."""
    site = FakeSite()
    looks = 0
    original = site.live._note

    async def note(topic: str, rows: Any) -> None:
        nonlocal looks
        if topic == "nodes":
            looks += 1
            scope.cancel()
        await original(topic, rows)

    site.live._note = note  # type: ignore[method-assign]
    for _ in range(10):
        with trio.CancelScope() as scope:
            await site.live._look_if_due()
    assert looks == 1
    assert site.live._states.keys() == TOPICS.keys()


async def test_time_alone_is_no_change(autojump_clock: MockClock) -> None:
    site = FakeSite()
    async with watching(site) as events:
        await events.next()
        await all_topics(events)
        with trio.move_on_after(60) as waited:
            await events.next()
        assert waited.cancelled_caught


async def test_ages_are_those_of_the_last_look(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """For somebody who comes later, when nothing has changed since."""
    site = FakeSite()
    ages = iter(range(1000))
    known_rows = site.live._console.nodes.known_rows

    async def older() -> list[Any]:
        age = float(next(ages))
        return [replace(row, health_seconds=age) for row in await known_rows()]

    monkeypatch.setattr(site.live._console.nodes, "known_rows", older)
    async with watching(site) as events:
        await events.next()
        before = (await all_topics(events))["nodes"]["rows"][0]["health_seconds"]
        await trio.sleep(30)
        async with watching(site) as later:
            await later.next()
            after = (await all_topics(later))["nodes"]["rows"][0]["health_seconds"]
    assert after > before + 5


async def test_a_stream_that_was_lost_goes_on(autojump_clock: MockClock) -> None:
    site = FakeSite()
    async with watching(site) as events:
        await events.next()
        last = [await events.next() for _ in TOPICS][-1][1]
    assert last is not None
    site.fake.draining.add("node2")
    async with watching(site, last_event_id=last) as events:
        assert (await events.next())[0] == "hello"
        name, event_id, _ = await events.next()
        assert name == "drains"
        assert event_id is not None
    async with watching(site, last_event_id=event_id) as events:
        await events.next()
        with trio.move_on_after(30) as waited:
            await events.next()
        assert waited.cancelled_caught, "it has seen everything"


@pytest.mark.parametrize("event_id", ["", "1", "deadbeef-1", "{}-99", "{}-x", "{}-" + "9" * 5000, "{}-٣", "\xff"])
async def test_an_id_of_something_else_begins_again(event_id: str, autojump_clock: MockClock) -> None:
    site = FakeSite()
    async with watching(site) as events:
        await events.next()
        await all_topics(events)
    life = site.live.event_id(0).partition("-")[0]
    async with watching(site, last_event_id=event_id.replace("{}", life)) as events:
        await events.next()
        with trio.fail_after(60):
            assert (await all_topics(events)).keys() == TOPICS.keys()


async def test_silence_is_broken_by_comments(autojump_clock: MockClock) -> None:
    site = FakeSite()
    stream = await site.ask(EVENTS, role_="view")
    assert isinstance(stream, EventStream)
    sink = ListSink()
    with trio.move_on_after(60):
        await stream.send_to(sink)
    assert sink.pieces[0].startswith(b"retry: 2000\n\nevent: hello\n")
    comments = [piece for piece in sink.pieces if piece.startswith(b":")]
    assert len(comments) in (3, 4)


async def test_a_token_that_is_taken_away_ends_the_stream(autojump_clock: MockClock) -> None:
    site = FakeSite()
    stream = await site.ask(EVENTS, role_="view")
    assert isinstance(stream, EventStream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_to, ListSink())
        await trio.sleep(5)
        site.access.use(site.config, TokenList(tuple(each for each in TOKENS.tokens if each.role is not Role.VIEW)))
        with trio.fail_after(QUIET_SECONDS + live.PAUSE_SECONDS + 0.1):
            while nursery.child_tasks:  # noqa: ASYNC110
                await trio.sleep(0.1)


async def test_a_reader_that_does_not_read_costs_nothing(autojump_clock: MockClock) -> None:
    """However much happens meanwhile: it gets the latest state of each topic once."""
    site = FakeSite()

    class Stuck(ListSink):
        def __init__(self) -> None:
            super().__init__()
            self.go = trio.Event()

        async def send(self, data: bytes) -> None:
            if len(self.pieces) > len(TOPICS):
                await self.go.wait()
            await super().send(data)

    stream = await site.ask(EVENTS, role_="view")
    assert isinstance(stream, EventStream)
    sink = Stuck()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_to, sink)
        async with watching(site):
            for _ in range(100):
                site.fake.sessions_count += 1
                site.feed.changed()
                await trio.sleep(1)
        sent = len(sink.pieces)
        sink.go.set()
        await trio.sleep(5)
        behind = [piece for piece in sink.pieces[sent:] if b"event: summary" in piece]
        assert len(behind) == 2, "the one that was on its way, and the latest one"
        assert b'"sessions":101' in behind[-1]
        nursery.cancel_scope.cancel()


async def test_streams_leave_room_for_others(autojump_clock: MockClock) -> None:
    """For other tokens, for other addresses, and for requests that come and go."""
    site = FakeSite()
    secret, token = make_token(Role.VIEW, "late")
    site.access.use(site.config, TokenList((*TOKENS.tokens, token)))
    roles = [role for role in Role for _ in range(streams.MAX_OF_ONE_TOKEN)]

    async def watch(secret: str, address: str) -> str | None:
        """Begin to watch; what the answer says, if there is no room."""
        found = await site.ask(EVENTS, address_=address, authorization=f"Bearer {secret}")
        if isinstance(found, EventStream):
            nursery.start_soon(found.send_to, ListSink())
            await trio.sleep(0.01)
            return None
        assert found.status is HTTPStatus.SERVICE_UNAVAILABLE
        assert dict(found.headers) == {"Retry-After": "2"}
        return str(json_of(found)["detail"])

    async with trio.open_nursery() as nursery:
        for number, role in enumerate(roles[: streams.MAX_OF_ONE_ADDRESS]):
            assert await watch(SECRETS[role], f"2001:db8::{number}") is None
        assert await watch(SECRETS[roles[0]], "2001:db8:1::") == "4 streams are open already with the token of viewer"
        assert await watch(secret, "2001:db8::ffff") == "8 streams are open already from this address"
        for role in roles[streams.MAX_OF_ONE_ADDRESS :]:
            assert await watch(SECRETS[role], "2001:db8:0:1::") is None
        assert await watch(secret, "192.0.2.1") == "12 streams are open already"
        nursery.cancel_scope.cancel()
    assert isinstance(await site.ask(EVENTS, role_="view"), EventStream), "they have ended"


async def test_only_get_watches() -> None:
    answer = await FakeSite().answer(EVENTS, "HEAD", role_="view")
    assert (answer.status, dict(answer.headers)) == (HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET"})


# --- orders whose end is waited for


async def carry_out(site: FakeSite, path: str, given: object, role: Role) -> list[tuple[str, Any]]:
    found = await site.ask(
        f"/api/v1/{path}",
        "POST",
        json.dumps(given).encode(),
        authorization=f"Bearer {SECRETS[role]}",
        content_type="application/json",
        accept="text/event-stream",
    )
    if isinstance(found, HttpAnswer):
        return [("answer", json_of(found))]
    sink = ListSink()
    await found.send_to(sink)
    events = Events(sink)
    return [(name, data) for name, _, data in [await events.next() for _ in sink.pieces[1:]]]


async def test_progress_then_the_result(autojump_clock: MockClock) -> None:
    site = FakeSite()
    found = await carry_out(site, "drain", {"node": "node1", "wait": True}, Role.OPERATE)
    assert [name for name, _ in found] == ["progress"] * 4 + ["result"]
    assert found[-1][1]["kind"] == "drain-progress"
    assert found[-1][1]["finished"]


async def test_a_token_that_is_taken_away_ends_the_progress_and_not_the_order(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    site = FakeSite()

    class Revoking(ListSink):
        async def send(self, data: bytes) -> None:
            await super().send(data)
            if b"event: progress" in data:
                site.access.use(site.config, TokenList())

    found = await site.ask(
        "/api/v1/drain",
        "POST",
        b'{"node": "node1", "wait": true}',
        authorization=f"Bearer {SECRETS[Role.OPERATE]}",
        content_type="application/json",
        accept="text/event-stream",
    )
    assert isinstance(found, EventStream)
    sink = Revoking()
    await found.send_to(sink)
    events = Events(sink)
    assert [(await events.next())[0] for _ in sink.pieces[2:]] == ["progress"]
    name, _, problem = await events.next()
    assert (name, problem["status"]) == ("error", 401)
    assert site.fake.draining == {"node1"}
    outcomes = [each.cxfr_proxy_fields["outcome"] for each in caplog.records if each.message == "order"]  # type: ignore[attr-defined]
    assert outcomes == ["begun"]


async def test_one_that_is_not_waited_for_has_a_plain_answer() -> None:
    site = FakeSite()
    ((name, found),) = await carry_out(site, "undrain", {"node": "node1"}, Role.OPERATE)
    assert (name, found["result"]["kind"]) == ("answer", "message")


async def test_an_error_is_the_last_event(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    site = FakeSite(FakeConsole(missing=["worker 2 is silent"]))
    found = await carry_out(site, "drain", {"node": "node9", "wait": True}, Role.OPERATE)
    assert [name for name, _ in found] == ["note", "error"]
    assert found[-1][1]["status"] == 409
    assert found[-1][1]["notes"] == ["worker 2 is silent"]
    assert "unknown node 'node9'" in found[-1][1]["detail"]
    found = await carry_out(FakeSite(), "drain", {"node": "node1", "wait": True, "rate": "fast"}, Role.OPERATE)
    assert [(name, each["status"]) for name, each in found] == [("error", 400)]


async def test_a_defect_is_said_without_its_text(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    site = FakeSite(FakeConsole(script=()))  # it has nothing to end with
    found = await carry_out(site, "drain", {"node": "node1", "wait": True}, Role.OPERATE)
    assert [name for name, _ in found] == ["error"]
    assert (found[0][1]["status"], found[0][1]["detail"]) == (500, "the proxy failed to do that; its log says why")
    assert "fault" in [record.message for record in caplog.records]


async def test_others_get_their_turn_while_thousands_of_nodes_are_looked_at(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = FakeSite()
    turns = 0
    looked_at: list[int] = []  # the turn in which nodes were looked at, then the topic behind them

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    rows = [replace((await site.live._console.nodes.known_rows())[0], name=f"node{number}") for number in range(2000)]

    async def many() -> list[Any]:
        looked_at.append(turns)
        return rows

    def none_is_drained() -> list[Any]:
        looked_at.append(turns)
        return []

    monkeypatch.setattr(site.live._console.nodes, "known_rows", many)
    monkeypatch.setattr(site.live._console.drains, "progress_rows", none_is_drained)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        async with watching(site) as events:
            await events.next()
            nodes = (await all_topics(events))["nodes"]["rows"]
        assert looked_at[1] - looked_at[0] >= 2000 / 100
        nursery.cancel_scope.cancel()
    assert [row["name"] for row in nodes] == [f"node{number}" for number in range(2000)]
