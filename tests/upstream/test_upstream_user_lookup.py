"""Asking an endpoint where a user belongs: what it may answer, and that it never holds anybody up."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import httpx2
import pytest
import trio

from cxfr_proxy.cluster.assigned import Answers, Assigned, Pins
from cxfr_proxy.upstream.user_lookup import (
    FAILURES_IN_A_ROW,
    MAX_ANSWER_BYTES,
    MAX_REQUESTS,
    REST_SECONDS,
    LookupOutcome,
    UserLookup,
)

URL = "http://127.0.0.1:9/where?key=1&jid={jid}"


class Endpoint(httpx2.AsyncBaseTransport):
    """Answers as ``answer`` does, once ``open`` is set."""

    def __init__(self, answer: httpx2.Response | Exception | None = None) -> None:
        self.answer = answer if answer is not None else httpx2.Response(200, text="node1\n")
        self.asked: list[str] = []
        self.tls_names: list[object] = []
        self.open = trio.Event()
        self.open.set()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(str(request.url))
        self.tls_names.append(request.extensions["sni_hostname"])
        await trio.lowlevel.checkpoint()
        await self.open.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        body = httpx2.ByteStream(self.answer.content)
        return httpx2.Response(self.answer.status_code, headers=self.answer.headers, stream=body)


@asynccontextmanager
async def asking(endpoint: Endpoint, seconds: float = 60.0) -> AsyncIterator[tuple[UserLookup, Assigned]]:
    assigned = Assigned(Pins(), Answers(seconds, trio.current_time))
    lookup = UserLookup(URL, 1.0, assigned, {"node1", "node2"}, transport=endpoint)
    async with trio.open_nursery() as nursery:
        await nursery.start(lookup.run)
        yield lookup, assigned
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "node", "outcome"),
    [
        (httpx2.Response(200, text=" node2\r\n"), "node2", LookupOutcome.FOUND),
        (httpx2.Response(200, json={"node": "node2", "since": 5}), "node2", LookupOutcome.FOUND),
        (httpx2.Response(200, json={"node": None}), None, LookupOutcome.NO_OPINION),
        (httpx2.Response(404, text="node2"), None, LookupOutcome.NO_OPINION),
        (httpx2.Response(200, text="node3"), None, LookupOutcome.UNKNOWN_NODE),
        (httpx2.Response(200, text=""), None, LookupOutcome.FAILED),
        (httpx2.Response(200, text="node2 node1"), None, LookupOutcome.FAILED),
        (httpx2.Response(200, text="n\u00f6de"), None, LookupOutcome.FAILED),
        (httpx2.Response(200, text="n" * 256), None, LookupOutcome.FAILED),
        (httpx2.Response(200, text=" " * MAX_ANSWER_BYTES + "node2"), None, LookupOutcome.FAILED),
        (httpx2.Response(200, text="node2", headers={"Content-Type": "application/json"}), None, LookupOutcome.FAILED),
        (
            httpx2.Response(200, text="[" * 4000, headers={"Content-Type": "application/json"}),
            None,
            LookupOutcome.FAILED,
        ),
        (httpx2.Response(200, json={"where": "node2"}), None, LookupOutcome.FAILED),
        (httpx2.Response(200, json={"node": 2}), None, LookupOutcome.FAILED),
        (httpx2.Response(200, json="node2"), None, LookupOutcome.FAILED),
        (httpx2.Response(302, headers={"Location": "http://127.0.0.1/"}), None, LookupOutcome.FAILED),
        (httpx2.Response(500, text="node2"), None, LookupOutcome.FAILED),
        (httpx2.Response(204), None, LookupOutcome.FAILED),
        (httpx2.ConnectError("refused"), None, LookupOutcome.FAILED),
        (httpx2.RemoteProtocolError(""), None, LookupOutcome.FAILED),
    ],
)
async def test_answers(answer: httpx2.Response | Exception, node: str | None, outcome: LookupOutcome) -> None:
    endpoint = Endpoint(answer)
    async with asking(endpoint) as (lookup, assigned):
        await lookup.find("Kim@Example.org")
        assert assigned.node_of("kim@example.org") == node
        assert lookup.outcomes == {outcome: 1}
        await lookup.find("kim@example.org")
        assert len(endpoint.asked) == (2 if outcome is LookupOutcome.FAILED else 1)


async def test_the_user_can_write_nothing_but_a_parameter() -> None:
    endpoint = Endpoint()
    async with asking(endpoint) as (lookup, _):
        await lookup.find("A&b=c#/../?%2e\u00e9 {jid}@ex:80\r\n.org")
    assert endpoint.asked == [
        "http://127.0.0.1:9/where?key=1&jid=a%26b%3Dc%23%2F..%2F%3F%252e%C3%A9%20%7Bjid%7D%40ex%3A80%0D%0A.org"
    ]


async def test_who_is_assigned_already_is_not_asked_about() -> None:
    endpoint = Endpoint()
    async with asking(endpoint) as (lookup, assigned):
        assigned.pins.pin("kim@h", "node2")
        await lookup.find("kim@h")
        assert endpoint.asked == []
        assert assigned.node_of("kim@h") == "node2"


async def test_an_answer_is_asked_for_again_when_it_is_old(autojump_clock: object) -> None:
    endpoint = Endpoint()
    async with asking(endpoint, seconds=30.0) as (lookup, assigned):
        await lookup.find("kim@h")
        await trio.sleep(29.9)
        await lookup.find("kim@h")
        assert len(endpoint.asked) == 1
        endpoint.answer = httpx2.Response(200, text="node2")
        await trio.sleep(0.1)
        await lookup.find("kim@h")
        assert assigned.node_of("kim@h") == "node2"


async def test_one_request_for_all_who_ask_about_a_user(autojump_clock: object) -> None:
    endpoint = Endpoint()
    endpoint.open = trio.Event()
    async with asking(endpoint) as (lookup, assigned), trio.open_nursery() as nursery:
        for user in ("kim@h", "Kim@h", "kim@H."):
            nursery.start_soon(lookup.find, user)
        await trio.sleep(0.5)
        endpoint.open.set()
    assert len(endpoint.asked) == 1
    assert assigned.node_of("kim@h") == "node1"


async def test_who_goes_away_leaves_the_asking_to_the_next(autojump_clock: object) -> None:
    endpoint = Endpoint()
    endpoint.open = trio.Event()
    first = trio.CancelScope()
    async with asking(endpoint) as (lookup, assigned), trio.open_nursery() as nursery:

        async def ask_and_go() -> None:
            with first:
                await lookup.find("kim@h")

        nursery.start_soon(ask_and_go)
        await trio.sleep(0.1)
        nursery.start_soon(lookup.find, "kim@h")
        await trio.sleep(0.1)
        first.cancel()
        await trio.sleep(0.1)
        endpoint.open.set()
    assert len(endpoint.asked) == 2
    assert assigned.node_of("kim@h") == "node1"
    assert lookup.outcomes == {LookupOutcome.FOUND: 1}


async def test_nobody_waits_longer_than_the_timeout(autojump_clock: object, caplog: pytest.LogCaptureFixture) -> None:
    endpoint = Endpoint()
    endpoint.open = trio.Event()
    async with asking(endpoint) as (lookup, assigned):
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(MAX_REQUESTS + 9):
                nursery.start_soon(lookup.find, f"user{number}@h")
                nursery.start_soon(lookup.find, f"user{number}@h")
        assert trio.current_time() - start == pytest.approx(1.0)
        assert len(endpoint.asked) == MAX_REQUESTS
        assert assigned.node_of("user1@h") is None
        assert lookup.outcomes == {LookupOutcome.FAILED: MAX_REQUESTS + 9}
    failures = [record for record in caplog.records if record.msg == "lookup-failed"]
    assert [record.levelno for record in failures] == [logging.WARNING]
    assert "user" not in str({**vars(failures[0]), "name": ""}), "but in the logger's name"


async def test_an_endpoint_that_is_down_is_left_alone_for_a_while(autojump_clock: object) -> None:
    endpoint = Endpoint(httpx2.Response(503))
    async with asking(endpoint) as (lookup, assigned):
        for number in range(FAILURES_IN_A_ROW + 5):
            await lookup.find(f"user{number}@h")
        assert len(endpoint.asked) == FAILURES_IN_A_ROW
        await trio.sleep(REST_SECONDS)
        endpoint.open = trio.Event()
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(lookup.find, f"user{number}@h")
        assert len(endpoint.asked) == FAILURES_IN_A_ROW + 1  # one tries
        await trio.sleep(REST_SECONDS)
        endpoint.open.set()
        endpoint.answer = httpx2.Response(200, text="node1")
        await lookup.find("kim@h")
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(lookup.find, f"user{number}@h")
        assert len(endpoint.asked) == FAILURES_IN_A_ROW + 7
        assert assigned.node_of("user4@h") == "node1"


async def test_nobody_is_asked_before_it_runs_and_afterwards() -> None:
    endpoint = Endpoint()
    async with asking(endpoint) as (lookup, assigned):
        pass
    await lookup.find("kim@h")
    assert endpoint.asked == []
    assert assigned.node_of("kim@h") is None


async def test_a_real_endpoint() -> None:
    """With sockets, and an answer that comes in pieces."""
    requests: list[bytes] = []

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            while data := await stream.receive_some():
                requests.append(data)
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nno")
                await stream.send_all(b"de2")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        assigned = Assigned(answers=Answers(60.0, trio.current_time))
        lookup = UserLookup(f"http://127.0.0.1:{port}/x/{{jid}}", 5.0, assigned, {"node2"})
        await nursery.start(lookup.run)
        await lookup.find("kim@h")
        await lookup.find("sam@h")
        nursery.cancel_scope.cancel()
    assert assigned.node_of("kim@h") == "node2"
    assert [request.split(b"\r\n")[0] for request in requests] == [
        b"GET /x/kim%40h HTTP/1.1",
        b"GET /x/sam%40h HTTP/1.1",
    ]
    assert b"cxfr-proxy/" in requests[0]


async def test_a_host_whose_name_ends_with_a_dot_is_called_without_it_in_tls() -> None:
    endpoint = Endpoint(httpx2.Response(404))
    assigned = Assigned(Pins(), Answers(60.0, trio.current_time))
    lookup = UserLookup("https://lookup.example.org./{jid}", 1.0, assigned, {"node1"}, transport=endpoint)
    async with trio.open_nursery() as nursery:
        await nursery.start(lookup.run)
        await lookup.find("kim@example.org")
        nursery.cancel_scope.cancel()
    assert endpoint.asked == ["https://lookup.example.org./kim%40example.org"]
    assert endpoint.tls_names == ["lookup.example.org"]
