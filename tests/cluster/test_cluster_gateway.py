"""Anything may come instead of an answer of etcd: nothing of it is believed, and all of it is an :class:`EtcdError`."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import httpx2
import pytest
import trio
from fake_etcd import backends
from trio.testing import MockClock

from cxfr_proxy.cluster.backends import EtcdBackends, parse_url
from cxfr_proxy.cluster.sources import gateway
from cxfr_proxy.cluster.sources.gateway import EtcdError, Gateway

HEADER = {"revision": "7"}
KEY = base64.b64encode(b"/cxfr/nodes/a").decode()


class Parts(httpx2.AsyncByteStream):
    """``endless``: the last part again and again."""

    def __init__(self, *parts: bytes, endless: bool = False) -> None:
        self.parts = parts
        self.endless = endless

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            await trio.lowlevel.checkpoint()
            yield part
        while self.endless:
            await trio.lowlevel.checkpoint()
            yield self.parts[-1]


def speaking(response: httpx2.Response | Exception) -> Gateway:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if isinstance(response, Exception):
            raise response
        return response

    return Gateway(backends(), None, httpx2.MockTransport(answer))


async def fault(response: httpx2.Response | Exception, ask: Callable[[Gateway], Awaitable[object]]) -> str:
    asked = speaking(response)
    with pytest.raises(EtcdError) as caught:
        await ask(asked)
    await asked.aclose()
    return str(caught.value)


async def read(asked: Gateway) -> object:
    return await asked.range("/cxfr/")


async def watch(asked: Gateway) -> None:
    async with aclosing(asked.watch("/cxfr/", 1)) as changes:
        async for _ in changes:
            pass


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "expected JSON from etcd's gateway, found b''"),
        (b"<html>", "expected JSON from etcd's gateway, found b'<html>'"),
        (b"[]", "expected JSON"),
        (b"[" * 100_000, "expected JSON"),
        (b"{}", "expected a header from etcd, found None"),
        (b'{"header": {"revision": "x"}}', "expected a number as 'revision' from etcd, found 'x'"),
        (b'{"header": {"revision": true}}', "expected a number as 'revision'"),
        (b'{"header": {"revision": -1}}', "expected a number as 'revision'"),
        (b'{"header": {"revision": "' + b"9" * 5000 + b'"}}', "expected a number as 'revision'"),
        (b'{"header": {}, "kvs": {}}', "expected a list as 'kvs'"),
        (b'{"header": {}, "kvs": ["a"]}', "expected a list as 'kvs'"),
        (b'{"header": {}, "kvs": [{"key": 5}]}', "expected base64 as 'key' from etcd, found 5"),
        (b'{"header": {}, "kvs": [{"key": "!"}]}', "expected base64 as 'key' from etcd, found '!'"),
    ],
)
async def test_answers_that_are_none(answer: bytes, message: str) -> None:
    assert (await fault(httpx2.Response(200, content=answer), read)).startswith(message)


async def test_refusals() -> None:
    said = httpx2.Response(403, json={"error": "etcdserver: permission denied", "code": 7})
    assert await fault(said, read) == "etcd refuses: HTTP 403: etcdserver: permission denied"
    assert await fault(httpx2.Response(502, content=b"<html>"), read) == "etcd refuses: HTTP 502: no reason given"
    assert await fault(httpx2.Response(302, headers={"Location": "http://elsewhere"}), read) != ""
    assert await fault(httpx2.ConnectError(""), read) == "ConnectError"


async def test_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "LONGEST_ANSWER", 10_000)
    endless = Parts(b"x" * 1000, endless=True)
    assert await fault(httpx2.Response(200, stream=endless), read) == "an answer of more than 10000 bytes"
    assert await fault(httpx2.Response(200, stream=endless), watch) == "a change of more than 10000 bytes"


async def test_too_slow(autojump_clock: MockClock) -> None:
    async def never(request: httpx2.Request) -> httpx2.Response:
        await trio.sleep_forever()
        raise AssertionError

    asked = Gateway(backends(), None, httpx2.MockTransport(never))
    with pytest.raises(EtcdError, match="no answer within 3 s"):
        await asked.grant(5)
    await asked.aclose()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b'{"result": {"header": {}, "created": true}}\n', "the watch has ended"),
        (b'{"result": 5}\n', "etcd refuses: no reason given"),
        (b'{"error": {"message": "x"}}\n', "etcd refuses: {'message': 'x'}"),
        (
            b'{"result": {"canceled": true, "cancel_reason": "denied"}}',
            "the watch was cancelled: denied",
        ),
        (b'{"result": {"events": [{}]}}\n', "expected a key in etcd's event, found None"),
        (b'{"result": {"events": [{"kv": {"key": "!"}}]}}\n', "expected base64 as 'key'"),
        (b"\n\nwhat\n", "expected JSON"),
    ],
)
async def test_watches_that_are_none(lines: bytes, message: str) -> None:
    assert (await fault(httpx2.Response(200, stream=Parts(lines)), watch)).startswith(message)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
async def test_lines_in_pieces(size: int) -> None:
    said = b"\none\n\ntwo, which is longer\nthree\n\nand what has no end"
    parts = Parts(*(said[at : at + size] for at in range(0, len(said), size)))
    found = [line async for line in gateway._lines(httpx2.Response(200, stream=parts))]
    assert found == [b"one", b"two, which is longer", b"three", b"and what has no end"]


async def test_bytes_that_are_no_text_are_values_like_any() -> None:
    value = base64.b64encode(b"\xff").decode()
    body = {"header": HEADER, "kvs": [{"key": KEY, "value": value, "mod_revision": "3"}]}
    asked = speaking(httpx2.Response(200, json=body))
    revision, ((key, entry),) = await asked.range("/cxfr/")
    assert (revision, key, entry.value, entry.revision) == (7, "/cxfr/nodes/a", "\udcff", 3)
    await asked.aclose()


async def test_a_lease_that_is_none() -> None:
    assert "expected a number as 'ID'" in await fault(httpx2.Response(200, json={}), lambda asked: asked.grant(5))
    asked = speaking(httpx2.Response(200, json={"result": {"ID": "5"}}))
    assert not await asked.keep_alive(5)
    await asked.aclose()


@pytest.mark.parametrize(
    ("host", "name"), [("etcd1.example.org.", "etcd1.example.org"), ("[2001:db8::1]", "2001:db8::1")]
)
async def test_what_the_host_is_called_in_tls(host: str, name: str) -> None:
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(200, json={"header": {"revision": "1"}})

    url = parse_url(f"etcds://{host}/cxfr")
    assert isinstance(url, EtcdBackends)
    gateway = Gateway(url, None, httpx2.MockTransport(answer))
    await gateway.range("/cxfr/")
    await gateway.aclose()
    assert [(f"{each.url.host}", each.extensions["sni_hostname"]) for each in asked] == [(host.strip("[]"), name)]
