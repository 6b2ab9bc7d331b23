"""The real command with two workers, steered and watched by HTTPS; with each example of the documentation."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h11
import pytest
import trio
from e2e_proxy import COMMAND
from e2e_workers import World, world
from waiting import PATIENCE_SECONDS

from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate

PAGE = Path(__file__).parents[2] / "docs" / "http.md"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


@dataclass
class Tokens:
    """The file of tokens, as the command line makes it."""

    path: Path
    secrets: dict[str, str] = field(default_factory=dict)

    def add(self, role: str) -> str:
        made = subprocess.run((*COMMAND, "token", role, f"{role}er"), capture_output=True, text=True, check=True)
        self.path.touch(mode=0o600)
        self.path.write_text(self.path.read_text() + made.stdout)
        self.secrets[role] = made.stderr.strip()
        return self.secrets[role]


@dataclass(frozen=True)
class Asked:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""


class HttpClient:
    """One request on a connection of its own, by h11."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._http = h11.Connection(h11.CLIENT)

    async def send(self, asked: Asked) -> h11.Response:
        headers = {"Host": "127.0.0.1", "Content-Length": str(len(asked.body)), **asked.headers}
        request = h11.Request(method=asked.method, target=asked.target, headers=list(headers.items()))
        for event in (request, h11.Data(data=asked.body), h11.EndOfMessage()):
            await self.stream.send_all(self._http.send(event) or b"")
        response = await self._event()
        assert isinstance(response, h11.Response), response
        return response

    async def _event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(bytes(await self.stream.receive_some(65_536)))
        return event

    async def piece(self) -> bytes:
        """Return the next piece of the answer; empty: it has ended."""
        event = await self._event()
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def rest(self) -> bytes:
        found = b""
        while piece := await self.piece():
            found += piece
        return found


@asynccontextmanager
async def connected(it: World) -> AsyncIterator[HttpClient]:
    (told,) = await it.proxy.event("http-listening")
    tls = it.certificate.client_context()
    async with await trio.open_ssl_over_tcp_stream(told["address"], told["port"], ssl_context=tls) as stream:
        yield HttpClient(stream)


async def ask(it: World, asked: Asked) -> tuple[int, Any]:
    async with connected(it) as client:
        response = await client.send(asked)
        return response.status_code, json.loads(await client.rest())


async def ask_all_workers(it: World, asked: Asked) -> Any:
    """Ask until no worker owes an answer, which a machine may be slow to let it give."""
    with trio.fail_after(PATIENCE_SECONDS):
        while True:
            status, found = await ask(it, asked)
            if not any("has not answered" in note for note in found.get("notes", ())):
                assert status == 200, found
                return found


def order(secret: str, path: str, **given: object) -> Asked:
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    return Asked("POST", f"/api/v1/{path}", headers, json.dumps(given).encode())


def look(secret: str, path: str) -> Asked:
    return Asked("GET", f"/api/v1/{path}", {"Authorization": f"Bearer {secret}"})


class EventsByTopic:
    """The latest rows of each topic of a stream, as its events are read."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._text = ""
        self.rows: dict[str, list[dict[str, Any]]] = {}

    async def until(self, topic: str, **fields: object) -> None:
        """Read on until a row of that topic has these fields."""
        while not any(fields.items() <= row.items() for row in self.rows.get(topic, ())):
            piece = await self._client.piece()
            assert piece, "the stream has ended"
            self._text += piece.decode()
            *events, self._text = self._text.split("\n\n")
            for event in events:
                lines = dict(line.split(": ", 1) for line in event.split("\n") if not line.startswith(":"))
                if "id" in lines:
                    self.rows[lines["event"]] = json.loads(lines["data"])["rows"]


def examples() -> Iterator[list[str]]:
    """The words of each call of curl that needs a token."""
    text = PAGE.read_text("utf-8").replace("\\\n", " ")
    for line in re.findall(r"^\$ (curl .*\$TOKEN.*)$", text, re.MULTILINE):
        yield shlex.split(line)


def read_curl(words: list[str], secret: str, session: int) -> Asked:
    """Return the request that curl would make of it. Raises for an option that is not known here."""
    rest = iter(words[1:])
    method, headers, body, url = "", {}, "", ""
    for word in rest:
        if word == "-H":
            name, _, value = next(rest).partition(": ")
            headers[name] = value.replace("$TOKEN", secret)
        elif word == "-d":
            body = next(rest)
        elif word == "-X":
            method = next(rest)
        elif word.startswith(("http://", "https://")):
            url = word
        else:
            assert word in ("-s", "-sN"), word
    target = re.sub(r"^https?://[^/]*", "", url).replace("id=4711", f"id={session}")
    return Asked(method or ("POST" if body else "GET"), target, headers, body.encode())


async def try_examples(it: World, secret: str) -> None:
    session = (await it.proxy.show("sessions"))[0]["id"]
    seen = set()
    for words in examples():
        asked = read_curl(words, secret, session)
        if "/show/" in asked.target:
            assert (await ask_all_workers(it, asked)).keys() == {"result", "notes"}
            seen.add((asked.method, "application/json"))
            continue
        async with connected(it) as client:
            response = await client.send(asked)
            assert response.status_code == 200, words
            content_type = dict(response.headers)[b"content-type"].decode()
            seen.add((asked.method, content_type))
            first = await client.piece()
            assert first.startswith(b"retry: " if content_type == "text/event-stream" else b'{"result": '), words
    assert seen == {
        (method, content_type)
        for method in ("GET", "POST")
        for content_type in ("application/json", "text/event-stream")
    }


async def test_an_operator_by_http(tmp_path: Path, certificate: DemoCertificate) -> None:
    tokens = Tokens(tmp_path / "tokens.txt")
    viewer, operator = tokens.add("view"), tokens.add("operate")
    flags = ("--http", "127.0.0.1:0", "--http-tokens", str(tokens.path), "--transfer-rate", "1000")
    https = ("--http-certificate", str(certificate.certificate), "--http-key", str(certificate.key))
    async with world(tmp_path, certificate, *flags, *https) as it:
        await it.log_in(6)
        found = await ask_all_workers(it, look(viewer, "show/sessions?limit=4"))
        assert len(found["result"]) == 4
        assert found["notes"] == ["4 of 6 sessions are shown"]
        assert (await ask(it, order(viewer, "drain", node="node1")))[0] == 403
        assert (await ask(it, order("cxfr_unknown", "drain", node="node1")))[0] == 401
        async with connected(it) as watching:
            assert (await watching.send(look(viewer, "events"))).status_code == 200
            events = EventsByTopic(watching)
            await events.until("summary", sessions=6)
            await events.until("nodes", name="node1", admin_state="ready")
            assert (await ask(it, order(operator, "drain", node="node1")))[0] == 200
            await events.until("drains", node="node1", left=0)
            await events.until("nodes", name="node1", admin_state="drain", sessions=0)
            status, found = await ask(it, order(operator, "undrain", node="node1"))
            assert (status, found["result"]["kind"]) == (200, "message")
            await events.until("nodes", name="node1", admin_state="ready")
            assert (await ask(it, order(operator, "reload")))[0] == 403
            # A token that is taken away is known to nobody, and its stream ends.
            tokens.path.write_text("".join(tokens.path.read_text().splitlines(keepends=True)[1:]))
            with trio.fail_after(PATIENCE_SECONDS):
                await watching.rest()
        assert (await ask(it, look(viewer, "show/nodes")))[0] == 401
        assert (await ask(it, look(operator, "show/nodes")))[0] == 200
        told = await it.proxy.event("order", 4)
        assert [(each["command"], each["by"], each["outcome"]) for each in told] == [
            ("drain", "viewer", "denied"),
            ("drain", "operateer", "done"),
            ("undrain", "operateer", "done"),
            ("reload", "operateer", "denied"),
        ]
        assert {(each["way"], each["address"]) for each in told} == {("http", "127.0.0.1")}
        admin = tokens.add("admin")
        with trio.fail_after(PATIENCE_SECONDS):
            while (await ask(it, look(admin, "show/nodes")))[0] != 200:  # noqa: ASYNC110 - the file is looked at each second
                await trio.sleep(0.1)
        await try_examples(it, admin)
        log = json.dumps(it.proxy.log)
        assert not any(secret in log for secret in tokens.secrets.values())
