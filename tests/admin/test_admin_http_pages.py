"""Which page answers what; sockets are none of its business."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from fake_site import FakeSite, FakeSource, json_of

from cxfr_proxy.admin.http.pages import PAGES

READY = FakeSite(source=FakeSource(None))
CLOSED = FakeSite(source=FakeSource(None), tokens=None)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_pages(method: str) -> None:
    for path in PAGES:
        assert (await READY.answer(path, method)).status is HTTPStatus.OK
    metrics = await READY.answer("/metrics", method)
    assert (metrics.content_type, metrics.body) == ("text/x", b"figures")


@pytest.mark.parametrize("host", ["proxy.internal:9222", "10.244.1.7", "attacker.example", ""])
async def test_probes_and_scrapers_may_use_any_name(host: str) -> None:
    """A probe that is refused takes the proxy out of its balancer. The API goes by its own names."""
    for path in PAGES:
        assert (await READY.answer(path, host=host)).status is HTTPStatus.OK
    named = await READY.answer("/api/v1", host="attacker.example", role_="view")
    assert named.status is HTTPStatus.MISDIRECTED_REQUEST


async def test_ready_or_why_not() -> None:
    unready = FakeSite(source=FakeSource("the proxy is stopping"))
    found = await unready.answer("/readyz")
    assert (found.status, found.body) == (HTTPStatus.SERVICE_UNAVAILABLE, b"the proxy is stopping\n")
    assert (await unready.answer("/livez")).status is HTTPStatus.OK, "restarting it would not help"


@pytest.mark.parametrize("target", ["/livez?verbose", "http://localhost:9222/livez", "HTTP://x/livez?a://b", "/livez?"])
async def test_a_target_in_all_its_forms(target: str) -> None:
    assert (await READY.answer(target)).status is HTTPStatus.OK


@pytest.mark.parametrize(
    "target",
    ["", "*", "/metrics/", "/livez/..", "//livez", "/livez%00", "http://", "ftp://x/livez", "?", "\xff", "/api"],
)
async def test_what_is_not_there(target: str) -> None:
    found = await READY.answer(target)
    assert found.status is HTTPStatus.NOT_FOUND
    assert all(path.encode() in found.body for path in PAGES)
    assert "\xff".encode("latin-1") not in found.body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get", "CONNECT", "TRACE"])
async def test_nothing_can_be_changed(method: str) -> None:
    for path in ("/", *PAGES):
        found = await READY.answer(path, method)
        assert (found.status, found.headers) == (HTTPStatus.METHOD_NOT_ALLOWED, (("Allow", "GET, HEAD"),))


async def test_the_bare_address_lists_what_there_is() -> None:
    for site, has_api in ((READY, True), (CLOSED, False)):
        text, listed = await site.answer("/"), json_of(await site.answer("/", accept="text/html, application/json"))
        assert (b"/api/v1" in text.body) is has_api
        assert set(listed["pages"]) == {*PAGES, *(("/ui/", "/api/v1") if has_api else ())}
        assert all(path.encode() in text.body for path in PAGES)


async def test_a_browser_is_led_to_the_status_page() -> None:
    """From the bare address where it could show something; the page itself is there anyway, and says what it lacks."""
    for site, status in ((READY, HTTPStatus.TEMPORARY_REDIRECT), (CLOSED, HTTPStatus.OK)):
        found = await site.answer("/", accept="text/html,application/xhtml+xml,*/*;q=0.8")
        assert found.status is status
        assert dict(found.headers).get("Location") == ("ui/" if site is READY else None)
        assert b"<!doctype html>" in (await site.answer("/ui/")).body
    assert (await READY.answer("/ui/", "POST")).status is HTTPStatus.METHOD_NOT_ALLOWED
    assert (await READY.answer("/ui/nothing.js")).status is HTTPStatus.NOT_FOUND


async def test_the_open_pages_stay_so() -> None:
    """Whoever asks, by whatever name."""
    for path in PAGES:
        found = await CLOSED.answer(path, host="monitor.example", origin="http://elsewhere.example")
        assert found.status is HTTPStatus.OK
