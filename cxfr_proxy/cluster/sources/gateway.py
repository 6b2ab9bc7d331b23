"""etcd, by its gRPC gateway: JSON over HTTP, version 3 of its interface, as etcd 3.4 and later have it under ``/v3``.

One object speaks to one endpoint at a time; :meth:`Gateway.turn` goes to the next. Every request has a time limit,
every answer a limit of size, and whatever goes wrong is an :class:`EtcdError`: HTTP, TLS and JSON end here. The
contents of an answer are checked before they are believed, since something else may answer at that port.

etcd's numbers are decimal strings in JSON, keys and values base64, and what is zero is left out.
"""

from __future__ import annotations

import base64
import json
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import httpx2
import trio

from cxfr_proxy.cluster.backends import EtcdBackends
from cxfr_proxy.cluster.shared import Entry
from cxfr_proxy.errors import ConfigError, CxfrProxyError
from cxfr_proxy.files import content_as_path, read_file

REQUEST_SECONDS: Final = 3.0
"""Seconds for one request; etcd answers within milliseconds, and one that is this slow is as good as away."""
PAGE_KEYS: Final = 1000
"""Keys of a range that are read at a time."""
LONGEST_ANSWER: Final = 32 << 20
"""Bytes of a page of keys as long as they come (etcd takes requests of 1.5 MiB, but such keys are not ours)."""

_UNAUTHENTICATED: Final = 16
"""gRPC's code: the token has expired, or etcd was restarted."""

logging.getLogger("httpx2").setLevel(logging.WARNING)  # it would log every request as INFO


class EtcdError(CxfrProxyError):
    """etcd can't be reached, refuses, or says what can't be understood. ``str()`` never holds a password."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Change:
    """A key has another value since ``revision``; ``entry`` is ``None`` where it is gone."""

    key: str
    entry: Entry | None
    revision: int


class Compacted(Exception):
    """Changes since that revision are not kept any more: all has to be read again."""


@dataclass(frozen=True, slots=True)
class EtcdCredentials:
    user: str
    password: str


class Gateway:
    """``login``: ``None`` if etcd needs no login. ``transport``: httpx2's own unless one is given.

    Raises :class:`~cxfr_proxy.errors.ConfigError` for a CA file that can't be read.
    """

    def __init__(
        self, backends: EtcdBackends, login: EtcdCredentials | None, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        self._scheme = "https" if backends.tls else "http"
        self._endpoints = list(backends.endpoints)
        self._login = login
        self._token: str | None = None
        # Not what the environment says of proxies and .netrc: etcd is near, and its password is ours to give.
        self._client = httpx2.AsyncClient(
            verify=_context(backends.ca) if backends.tls else False,
            timeout=None,
            trust_env=False,
            transport=transport,
            headers={"Accept-Encoding": "identity"},
        )

    @property
    def endpoint(self) -> str:
        """The endpoint in use."""
        return str(self._endpoints[0])

    @property
    def endpoints(self) -> int:
        return len(self._endpoints)

    def turn(self) -> None:
        """Use the next endpoint from now on."""
        self._endpoints.append(self._endpoints.pop(0))
        self._token = None

    async def aclose(self) -> None:
        await self._client.aclose()

    # --- keys

    async def range(self, prefix: str) -> tuple[int, list[tuple[str, Entry]]]:
        """Return all keys that begin with ``prefix``, and the revision at which they were so."""
        start, end = prefix.encode(), _behind(prefix.encode())
        revision, found = 0, list[tuple[str, Entry]]()
        while True:
            answer = await self._call(
                "kv/range",
                {"key": _base64(start), "range_end": _base64(end), "limit": PAGE_KEYS, "revision": revision},
            )
            revision = revision or _revision(answer)
            page = [_entry(each) for each in _list(answer, "kvs")]
            found += page
            if not answer.get("more") or not page:
                return revision, found
            start = page[-1][0].encode("utf-8", "surrogateescape") + b"\0"

    async def put(
        self, key: str, value: str | None, *, lease: int = 0, unless_changed_since: int | None = None
    ) -> int | None:
        """Write a key; ``None`` deletes it. Return the store's revision then.

        ``unless_changed_since`` is the revision of the value that may be overwritten, 0 for none at all. If there is
        another value, nothing is written, and ``None`` is returned.
        """
        if value is None:
            write: dict[str, object] = {"request_delete_range": {"key": _base64(key.encode())}}
        else:
            body = {"key": _base64(key.encode()), "value": _base64(value.encode()), "lease": str(lease)}
            write = {"request_put": body}
        compare: list[dict[str, object]] = []
        if unless_changed_since is not None:
            compare.append(
                {
                    "key": _base64(key.encode()),
                    "target": "MOD",
                    "result": "EQUAL",
                    "mod_revision": unless_changed_since,
                }
            )
        answer = await self._call("kv/txn", {"compare": compare, "success": [write], "failure": []})
        return _revision(answer) if answer.get("succeeded") is True else None

    async def watch(self, prefix: str, revision: int) -> AsyncGenerator[list[Change], None]:
        """Yield changes of keys that begin with ``prefix``, from ``revision`` on; the first one, which may be empty,
        says that it has begun.

        Raises :class:`Compacted`, and :class:`EtcdError` when it ends.
        """
        create = {
            "key": _base64(prefix.encode()),
            "range_end": _base64(_behind(prefix.encode())),
            "start_revision": revision,
        }
        async with self._open("watch", {"create_request": create}) as response, aclosing(_lines(response)) as lines:
            async for line in lines:
                result = _object(line).get("result")
                if not isinstance(result, dict):
                    raise _refusal(_object(line))
                if _int(result, "compact_revision"):
                    raise Compacted
                if result.get("canceled") is True:
                    reason = result.get("cancel_reason", "no reason given")
                    raise EtcdError(f"the watch was cancelled: {reason!s:.200}")
                yield [_change(event) for event in _list(result, "events")]
        raise EtcdError("the watch has ended")

    # --- leases

    async def grant(self, seconds: int) -> int:
        """Return the number of a new lease. Its keys go when it was not kept alive for so long."""
        return _int(await self._call("lease/grant", {"TTL": seconds}), "ID", least=1)

    async def keep_alive(self, lease: int) -> bool:
        """Keep the lease alive. Return whether it lives."""
        result = (await self._call("lease/keepalive", {"ID": str(lease)})).get("result")
        return isinstance(result, dict) and _int(result, "TTL") > 0

    async def revoke(self, lease: int) -> None:
        """Revoke the lease: its keys are deleted at once."""
        await self._call("lease/revoke", {"ID": str(lease)})

    # --- requests

    async def _call(self, path: str, body: Mapping[str, object]) -> dict[str, object]:
        """Send one request, and once more if the token was too old."""
        had_token = self._token is not None
        try:
            return await self._post(path, body)
        except EtcdError as exc:
            if exc.code != _UNAUTHENTICATED or not had_token:
                raise
        self._token = None
        return await self._post(path, body)

    async def _post(self, path: str, body: Mapping[str, object]) -> dict[str, object]:
        with trio.move_on_after(REQUEST_SECONDS):
            async with self._open(path, body) as response:
                return _object(await _whole(response))
        raise EtcdError(f"no answer within {REQUEST_SECONDS:g} s")

    @asynccontextmanager
    async def _open(self, path: str, body: Mapping[str, object]) -> AsyncIterator[httpx2.Response]:
        """Send a request and return the answer, if it is no refusal, to be read."""
        if self._login is not None and self._token is None and path != "auth/authenticate":
            await self._authenticate(self._login)
        headers = {"Authorization": self._token} if self._token is not None else {}
        try:
            url = f"{self._scheme}://{self.endpoint}/v3/{path}"
            # Of a name that ends with a dot, TLS has the rest (RFC 6066 section 3).
            tls_name = {"sni_hostname": self._endpoints[0].host.removesuffix(".")}
            async with self._client.stream("POST", url, json=body, headers=headers, extensions=tls_name) as response:
                if response.status_code != httpx2.codes.OK:
                    raise _refusal(_object_or_none(await _whole(response)), response.status_code)
                yield response
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError) as exc:
            raise EtcdError(_reason(exc)) from exc

    async def _authenticate(self, login: EtcdCredentials) -> None:
        answer = await self._post("auth/authenticate", {"name": login.user, "password": login.password})
        token = answer.get("token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise EtcdError("expected a token from etcd's auth/authenticate")
        self._token = token


_MAX_CA_BYTES: Final = 4 << 20


def _context(ca: str | None) -> ssl.SSLContext:
    try:
        if ca is None:
            return ssl.create_default_context()
        with content_as_path(read_file(ca, max_bytes=_MAX_CA_BYTES)) as path:
            return ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"expected certificates in PEM, found: {exc.strerror or exc}", file=ca) from exc


def _behind(prefix: bytes) -> bytes:
    """Return the first key behind all that begin with the prefix. A prefix ends with a character, never with 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


# --- answers


@asynccontextmanager
async def _parts(response: httpx2.Response) -> AsyncIterator[AsyncIterator[bytes]]:
    """Yield the answer as it comes. A caller that stops early would leave httpx2's own iterators behind, one within the
    other, and trio would complain: a read that is cancelled ends all of them."""
    parts = response.aiter_bytes()
    try:
        yield parts
    finally:
        with trio.CancelScope() as leaving:
            leaving.cancel()
            async for _ in parts:
                pass


async def _whole(response: httpx2.Response) -> bytes:
    found, size = list[bytes](), 0
    async with _parts(response) as parts:
        async for part in parts:
            found.append(part)
            size += len(part)
            if size > LONGEST_ANSWER:
                raise EtcdError(f"an answer of more than {LONGEST_ANSWER} bytes")
    return b"".join(found)


async def _lines(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    begun, size = list[bytes](), 0  # of the line that has not ended: a long one is put together once
    async with _parts(response) as parts:
        async for part in parts:
            *ended, rest = part.split(b"\n")
            for end in ended:
                line, begun, size = b"".join((*begun, end)), [], 0
                if line:
                    yield line
            begun.append(rest)
            size += len(rest)
            if size > LONGEST_ANSWER:
                raise EtcdError(f"a change of more than {LONGEST_ANSWER} bytes")
    if size:
        yield b"".join(begun)


def _reason(exc: Exception) -> str:
    """Describe the error by its cause, which tells more than httpx2's own words: a name that is unknown, a
    certificate that isn't trusted."""
    cause: BaseException | None = exc
    while cause is not None and not str(cause):
        cause = cause.__cause__ or cause.__context__
    return str(cause) if cause is not None else type(exc).__name__


def _refusal(answer: Mapping[str, object] | None, status: int | None = None) -> EtcdError:
    code = answer.get("code") if answer is not None else None
    said = (answer.get("message") or answer.get("error")) if answer is not None else None
    where = f"HTTP {status}: " if status is not None else ""
    return EtcdError(
        f"etcd refuses: {where}{said or 'no reason given'!s:.200}", code if isinstance(code, int) else None
    )


def _object(data: bytes) -> dict[str, object]:
    value = _object_or_none(data)
    if value is None:
        raise EtcdError(f"expected JSON from etcd's gateway, found {data[:60]!r}")
    return value


def _object_or_none(data: bytes) -> dict[str, object] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _int(answer: Mapping[str, object], name: str, *, least: int = 0) -> int:
    found = answer.get(name, 0)
    if isinstance(found, str) and found.isascii() and found.isdigit() and len(found) < 20:
        found = int(found)
    if isinstance(found, bool) or not isinstance(found, int) or found < least:
        raise EtcdError(f"expected a number as {name!r} from etcd, found {found!r:.60}")
    return found


def _text(answer: Mapping[str, object], name: str) -> str:
    """Return the text. Bytes that are no UTF-8 stay as surrogates: such a key or value is none of ours."""
    found = answer.get(name, "")
    try:
        if isinstance(found, str):
            return base64.b64decode(found, validate=True).decode("utf-8", "surrogateescape")
    except ValueError:
        pass
    raise EtcdError(f"expected base64 as {name!r} from etcd, found {found!r:.60}")


def _list(answer: Mapping[str, object], name: str) -> Sequence[Mapping[str, object]]:
    found = answer.get(name, [])
    if isinstance(found, list) and all(isinstance(each, dict) for each in found):
        return found
    raise EtcdError(f"expected a list as {name!r} from etcd, found {found!r:.60}")


def _revision(answer: Mapping[str, object]) -> int:
    header = answer.get("header")
    if not isinstance(header, dict):
        raise EtcdError(f"expected a header from etcd, found {header!r:.60}")
    return _int(header, "revision")


def _entry(pair: Mapping[str, object]) -> tuple[str, Entry]:
    return _text(pair, "key"), Entry(_text(pair, "value"), _int(pair, "mod_revision"))


def _change(event: Mapping[str, object]) -> Change:
    pair = event.get("kv")
    if not isinstance(pair, dict):
        raise EtcdError(f"expected a key in etcd's event, found {pair!r:.60}")
    key, entry = _entry(pair)
    return Change(key, None if event.get("type") == "DELETE" else entry, entry.revision)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
