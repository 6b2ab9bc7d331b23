"""An etcd in memory, behind httpx2: keys, leases and watches, on trio's clock, which a test may let jump.

It does what a proxy asks for and nothing else. ``down`` refuses connections, ``delay`` is slow, ``deaf`` takes a watch
and never says anything; ``answers`` replaces whole answers by path.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
import trio

from cxfr_proxy.cluster.backends import EtcdBackends, parse_url

URL = "etcd://etcd1:2379,etcd2:2379/cxfr"
Body = dict[str, Any]  # Any: JSON


def backends(url: str = URL) -> EtcdBackends:
    found = parse_url(url)
    assert isinstance(found, EtcdBackends)
    return found


@dataclass
class Value:
    value: str
    revision: int
    lease: int = 0


@dataclass
class FakeEtcd:
    down: set[str] = field(default_factory=set)
    """Hosts."""
    delay: float = 0.0
    watch_delay: float = 0.0
    """Of changes, on their way."""
    deaf: bool = False
    answers: dict[str, httpx2.Response | Callable[[Body], Body | None]] = field(default_factory=dict)
    keys: dict[str, Value] = field(default_factory=dict)
    revision: int = 1
    compacted: int = 0
    leases: dict[int, float] = field(default_factory=dict)
    """When they expire."""
    asked: list[tuple[str, Body]] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict)
    """Passwords by user, where there are users."""
    valid: set[str] = field(default_factory=set)
    history: list[tuple[int, str, str | None]] = field(default_factory=list)
    changed: trio.Event = field(default_factory=trio.Event)

    @property
    def transport(self) -> httpx2.MockTransport:
        return httpx2.MockTransport(self._answer)

    def put(self, key: str, value: str | None, lease: int = 0) -> int:
        """As somebody else."""
        self.revision += 1
        if value is None:
            self.keys.pop(key, None)
        else:
            self.keys[key] = Value(value, self.revision, lease)
        self.history.append((self.revision, key, value))
        self.changed.set()
        self.changed = trio.Event()
        return self.revision

    def value(self, key: str) -> str | None:
        found = self.keys.get(key)
        return found.value if found is not None else None

    def compact(self) -> None:
        self.compacted = self.revision

    def break_watches(self) -> None:
        """They learn of it when something changes."""
        self.put("elsewhere", "")

    async def expire(self) -> None:
        """Let leases end, until cancelled."""
        while True:
            for lease, at in list(self.leases.items()):
                if at <= trio.current_time():
                    self.end(lease)
            await trio.sleep(0.1)

    def end(self, lease: int) -> None:
        self.leases.pop(lease, None)
        for key in [key for key, value in self.keys.items() if lease and value.lease == lease]:
            self.put(key, None)

    # --- what it answers

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        path, body = request.url.path.removeprefix("/v3/"), json.loads(request.content)
        self.asked.append((path, body))
        await trio.sleep(self.delay)
        if request.url.host in self.down:
            raise httpx2.ConnectError("connection refused", request=request)
        if self.tokens and path != "auth/authenticate" and request.headers.get("Authorization") not in self.valid:
            return httpx2.Response(401, json={"error": "etcdserver: invalid auth token", "code": 16})
        given = self.answers.get(path)
        if isinstance(given, httpx2.Response):
            return given
        if given is not None and (answer := given(body)) is not None:
            return httpx2.Response(200, json=answer)
        if path == "watch":
            return httpx2.Response(200, stream=_Watch(self, body["create_request"], request.url.host))
        done: Body = getattr(self, "_" + path.replace("/", "_"))(body)
        if "error" in done:
            return httpx2.Response(404, json=done)
        return httpx2.Response(200, json={"header": {"revision": str(self.revision)}, **done})

    def _kv_range(self, body: Body) -> Body:
        start, end, limit = _text(body["key"]), _text(body["range_end"]), body["limit"]
        found = sorted(key for key in self.keys if start <= key < end)
        kvs = [self._kv(key) for key in found[:limit]]
        return {"kvs": kvs, "count": str(len(found)), **({"more": True} if len(found) > limit else {})} if kvs else {}

    def _kv(self, key: str) -> Body:
        value = self.keys[key]
        return {"key": encoded(key), "value": encoded(value.value), "mod_revision": str(value.revision)}

    def _kv_txn(self, body: Body) -> Body:
        for condition in body["compare"]:
            found = self.keys.get(_text(condition["key"]))
            if (found.revision if found is not None else 0) != condition["mod_revision"]:
                return {}
        (write,) = body["success"]
        if "request_put" in write:
            lease = int(write["request_put"]["lease"])
            if lease and lease not in self.leases:
                return {"error": "etcdserver: requested lease not found", "code": 5}
            self.put(_text(write["request_put"]["key"]), _text(write["request_put"]["value"]), lease)
        else:
            self.put(_text(write["request_delete_range"]["key"]), None)
        return {"succeeded": True}

    def _lease_grant(self, body: Body) -> Body:
        number = 7_587_000_000_000_000_000 + len(self.asked)  # no float has it
        self.leases[number] = trio.current_time() + body["TTL"]
        return {"ID": str(number), "TTL": str(body["TTL"])}

    def _lease_keepalive(self, body: Body) -> Body:
        number = int(body["ID"])
        if number not in self.leases:
            return {"result": {"ID": body["ID"]}}
        self.leases[number] = trio.current_time() + 5
        return {"result": {"ID": body["ID"], "TTL": "5"}}

    def _lease_revoke(self, body: Body) -> Body:
        self.end(int(body["ID"]))
        return {}

    def _auth_authenticate(self, body: Body) -> Body:
        if self.tokens.get(body["name"]) != body["password"]:
            return {"error": "etcdserver: authentication failed, invalid user ID or password", "code": 3}
        token = f"token{len(self.asked)}"
        self.valid.add(token)
        return {"token": token}


class _Watch(httpx2.AsyncByteStream):
    def __init__(self, etcd: FakeEtcd, create: Body, host: str) -> None:
        self.etcd, self.host = etcd, host
        self.start, self.end = _text(create["key"]), _text(create["range_end"])
        self.next = int(create["start_revision"])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        etcd = self.etcd
        if self.next <= etcd.compacted:
            yield self._line({"canceled": True, "compact_revision": str(etcd.compacted)})
        yield self._line({"created": True})
        if etcd.deaf:
            await trio.sleep_forever()
        while True:
            changed = etcd.changed
            events = [self._event(*each) for each in etcd.history if each[0] >= self.next]
            self.next = etcd.revision + 1
            line = self._line({"events": [each for each in events if each is not None]})
            await trio.sleep(etcd.watch_delay)
            yield line[:10]  # lines come in pieces
            yield line[10:]
            await changed.wait()
            if self.host in etcd.down:
                raise httpx2.ReadError("the connection has ended")

    def _line(self, result: Body) -> bytes:
        return json.dumps({"result": {"header": {"revision": str(self.etcd.revision)}, **result}}).encode() + b"\n"

    def _event(self, revision: int, key: str, value: str | None) -> Body | None:
        if not self.start <= key < self.end:
            return None
        pair = {"key": encoded(key), "mod_revision": str(revision)}
        if value is None:
            return {"type": "DELETE", "kv": pair}
        return {"kv": {**pair, "value": encoded(value)}}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode()
