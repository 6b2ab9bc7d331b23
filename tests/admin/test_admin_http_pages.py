"""Which page answers what; sockets are none of its business."""

from __future__ import annotations

from http import HTTPStatus

import pytest
import trio

from cxfr_proxy.admin.http.pages import PAGES, answer
from cxfr_proxy.admin.metrics.exposition import Exposition


class FakeSource:
    def __init__(self, reason: str | None = None) -> None:
        self._reason = reason

    def unready(self) -> str | None:
        return self._reason

    async def metrics(self, accept: str) -> Exposition:
        await trio.lowlevel.checkpoint()
        return Exposition("text/x", f"accepts {accept}".encode())


READY = FakeSource()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_pages(method: str) -> None:
    for path in PAGES:
        assert (await answer(READY, method, path)).status is HTTPStatus.OK
    metrics = await answer(READY, method, "/metrics", "text/y")
    assert (metrics.content_type, metrics.body) == ("text/x", b"accepts text/y")


async def test_ready_or_why_not() -> None:
    unready = FakeSource("the proxy is stopping")
    found = await answer(unready, "GET", "/readyz")
    assert (found.status, found.body) == (HTTPStatus.SERVICE_UNAVAILABLE, b"the proxy is stopping\n")
    assert (await answer(unready, "GET", "/livez")).status is HTTPStatus.OK, "restarting it would not help"


@pytest.mark.parametrize("target", ["/livez?verbose", "http://localhost:9222/livez", "HTTP://x/livez?a://b", "/livez?"])
async def test_a_target_in_all_its_forms(target: str) -> None:
    assert (await answer(READY, "GET", target)).status is HTTPStatus.OK


@pytest.mark.parametrize(
    "target", ["/", "", "*", "/metrics/", "/livez/..", "//livez", "/livez%00", "http://", "ftp://x/livez", "?", "\xff"]
)
async def test_what_is_not_there(target: str) -> None:
    found = await answer(READY, "GET", target)
    assert found.status is HTTPStatus.NOT_FOUND
    assert all(path.encode() in found.body for path in PAGES)
    assert "\xff".encode("latin-1") not in found.body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get", "CONNECT", "TRACE"])
async def test_nothing_can_be_changed(method: str) -> None:
    for path in PAGES:
        found = await answer(READY, method, path)
        assert (found.status, found.allow) == (HTTPStatus.METHOD_NOT_ALLOWED, "GET, HEAD")
