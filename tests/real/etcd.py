"""A real etcd on free ports of the loopback interface, with its data in a directory of the test's.

Values are written and read with ``curl``'s means, HTTP and JSON by hand, and not with the proxy's own gateway.
"""

from __future__ import annotations

import base64
import json
import signal
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from real import programs
from real.certs import Certificate
from real.programs import HOST, Need

PREFIX = "/cxfr"
_SECONDS = 60.0
"""Only a test that fails waits for so long."""


class Etcd:
    """``url`` is what ``--backends`` takes, if etcd needs no login."""

    def __init__(self, folder: Path, certificate: Certificate | None, ca: Path | None) -> None:
        self._folder = folder
        self._certificate = certificate
        self._port, self._peer_port = programs.free_port(), programs.free_port()
        self._tls = ssl.create_default_context(cafile=str(ca)) if ca is not None else None
        self._scheme = "https" if certificate is not None else "http"
        self._process: trio.Process | None = None
        self.address = f"{HOST}:{self._port}"
        self.url = f"etcd{'s' * (certificate is not None)}://{self.address}{PREFIX}" + (f"?ca={ca}" if ca else "")
        self.token: str | None = None

    # --- the process

    async def start(self) -> None:
        client, peer = f"{self._scheme}://{self.address}", f"http://{HOST}:{self._peer_port}"
        tls: list[str | Path] = []
        if self._certificate is not None:
            tls = ["--cert-file", self._certificate.certificate, "--key-file", self._certificate.key]
        self._process = await programs.start(
            [
                *("etcd", "--data-dir", self._folder / "data", "--name", "one", "--logger", "zap"),
                *("--listen-client-urls", client, "--advertise-client-urls", client),
                *(
                    "--listen-peer-urls",
                    peer,
                    "--initial-advertise-peer-urls",
                    peer,
                    "--initial-cluster",
                    f"one={peer}",
                ),
                *tls,
            ],
            output=self._folder / "etcd.log",
        )
        await programs.wait_accepting(HOST, self._port, self._process, self._folder / "etcd.log")
        await self._until_ready()

    async def _until_ready(self) -> None:
        """It accepts connections before it has a leader."""
        with trio.fail_after(_SECONDS):
            while True:
                try:
                    await self.call("kv/range", {"key": _base64("/")})
                    return
                except OSError as exc:
                    if "user name is empty" in str(exc):
                        return
                    await trio.sleep(0.05)

    async def stop(self) -> None:
        await programs.end(self._process)
        self._process = None

    def freeze(self) -> None:
        """It keeps its connections, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    # --- its keys

    async def call(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Raises ``OSError`` with what etcd said."""
        return await trio.to_thread.run_sync(self._call, path, body)

    def _call(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        request = urllib.request.Request(f"{self._scheme}://{self.address}/v3/{path}", json.dumps(body).encode())
        if self.token is not None:
            request.add_header("Authorization", self.token)
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS, context=self._tls) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as exc:
            with exc:
                raise OSError(exc.read().decode()) from None

    async def put(self, key: str, value: str) -> None:
        await self.call("kv/put", {"key": _base64(f"{PREFIX}/{key}"), "value": _base64(value)})

    async def delete(self, key: str) -> None:
        await self.call("kv/deleterange", {"key": _base64(f"{PREFIX}/{key}")})

    async def values(self, section: str) -> dict[str, str]:
        """By what stands behind the section in the key."""
        start = f"{PREFIX}/{section}/"
        answer = await self.call("kv/range", {"key": _base64(start), "range_end": _base64(start[:-1] + "0")})
        pairs = [(_text(each["key"]), _text(each.get("value", ""))) for each in answer.get("kvs", [])]
        return {key.removeprefix(start): value for key, value in pairs}

    async def compact(self) -> None:
        """Forget all older revisions."""
        answer = await self.call("kv/range", {"key": _base64("/")})
        await self.call("kv/compaction", {"revision": answer["header"]["revision"], "physical": True})

    async def require_login(self, user: str, password: str) -> None:
        """That user, who may read and write below the prefix, and nobody without a password from now on."""
        start = f"{PREFIX}/"
        below = {"permType": "READWRITE", "key": _base64(start), "range_end": _base64(start[:-1] + "0")}
        for role in ("root", "proxies"):
            await self.call("auth/role/add", {"name": role})
        await self.call("auth/role/grant", {"name": "proxies", "perm": below})
        for name, role in (("root", "root"), (user, "proxies")):
            await self.call("auth/user/add", {"name": name, "password": password})
            await self.call("auth/user/grant", {"user": name, "role": role})
        await self.call("auth/enable", {})
        self.token = (await self.call("auth/authenticate", {"name": "root", "password": password}))["token"]


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode()


@asynccontextmanager
async def open_etcd(
    folder: Path, certificate: Certificate | None = None, ca: Path | None = None
) -> AsyncIterator[Etcd]:
    """A running one. The test is skipped where none is installed."""
    programs.require(Need.ETCD)
    await trio.Path(folder).mkdir()
    etcd = Etcd(folder, certificate, ca)
    try:
        await etcd.start()
        yield etcd
    finally:
        etcd.thaw()
        await etcd.stop()
