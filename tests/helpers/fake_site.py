"""All that is served by HTTP, in front of a fake console; requests without sockets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import trio
from fake_console import FakeConsole

from cxfr_proxy.admin.commands.callers import Role
from cxfr_proxy.admin.feed import ChangeFeed
from cxfr_proxy.admin.http.access import Access
from cxfr_proxy.admin.http.api import HttpApi
from cxfr_proxy.admin.http.certificate import HttpCertificate
from cxfr_proxy.admin.http.exchange import EventStream, HttpAnswer, PageRequest
from cxfr_proxy.admin.http.live import LiveView
from cxfr_proxy.admin.http.site import Site
from cxfr_proxy.admin.http.tokens import TokenList, make_token
from cxfr_proxy.admin.metrics.exposition import Exposition
from cxfr_proxy.config.table import Config

MADE: Final = {role: make_token(role, f"{role}er") for role in Role}
SECRETS: Final[Mapping[Role, str]] = {role: secret for role, (secret, _) in MADE.items()}
TOKENS: Final = TokenList(tuple(token for _, token in MADE.values()))


class FakeSource:
    """``metrics`` waits for ``go``, or fails, if told so."""

    def __init__(self, reason: str | None = "it is night") -> None:
        self.go = trio.Event()
        self.go.set()
        self.fails = False
        self.body = b"figures"
        self._reason = reason

    def unready(self) -> str | None:
        return self._reason

    async def metrics(self, accept: str) -> Exposition:
        await self.go.wait()
        if self.fails:
            raise RuntimeError("secret")
        return Exposition("text/x", self.body)


class FakeBody:
    def __init__(self, data: bytes = b"") -> None:
        self.data = data

    async def read_body(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.data


class ListSink:
    """Keeps what is sent; ``has`` waits until so many pieces have come."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self._lot = trio.lowlevel.ParkingLot()

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.pieces.append(data)
        self._lot.unpark_all()

    async def has(self, pieces: int) -> None:
        while len(self.pieces) < pieces:
            await self._lot.park()


@dataclass
class FakeSite:
    """A site whose tokens are :data:`TOKENS`, unless ``tokens`` is ``None``."""

    fake: FakeConsole = field(default_factory=FakeConsole)
    source: FakeSource = field(default_factory=FakeSource)
    tokens: TokenList | None = TOKENS
    config: Config = field(default_factory=Config)

    def __post_init__(self) -> None:
        self.feed = ChangeFeed()
        self.certificate = HttpCertificate(self.config)
        self.access = Access(self.config, self.certificate)
        self.access.use(self.config, self.tokens)
        console = self.fake.console
        self.live = LiveView(console, self.feed)
        self.site = Site(self.source, HttpApi(console, self.access, self.live))

    async def ask(
        self, target: str, method: str = "GET", body: bytes = b"", /, **headers: str
    ) -> HttpAnswer | EventStream:
        """``role_`` is the caller's, if there is one, and ``address_`` is theirs; underscores in the names of headers
        stand for hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        address = named.pop("address-", "192.0.2.1")
        named.setdefault("host", "127.0.0.1:9222")
        role = named.pop("role-", None)
        if role is not None:
            named["authorization"] = f"Bearer {SECRETS[Role(role)]}"
        return await self.site.answer(PageRequest(method, target, named, address, FakeBody(body)))

    async def answer(self, target: str, method: str = "GET", body: bytes = b"", /, **headers: str) -> HttpAnswer:
        found = await self.ask(target, method, body, **headers)
        assert isinstance(found, HttpAnswer)
        return found

    async def order(self, path: str, given: object, role: Role = Role.OPERATE, /, **headers: str) -> HttpAnswer:
        body = json.dumps(given).encode()
        return await self.answer(path, "POST", body, role_=role, content_type="application/json", **headers)


def json_of(answer: HttpAnswer) -> Any:
    return json.loads(answer.body)
