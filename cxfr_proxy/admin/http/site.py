"""All that is served by HTTP: the open pages, the status page below ``/ui/``, and the API below ``/api/``."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import trio

from cxfr_proxy.admin.http.api import HttpApi
from cxfr_proxy.admin.http.exchange import JSON, EventStream, HttpAnswer, PageRequest, json_answer, said
from cxfr_proxy.admin.http.pages import PAGES, READING, PageSource
from cxfr_proxy.admin.http.paths import BASE
from cxfr_proxy.admin.http.status_page import UI, UI_HELP, StatusPage, to_page

PAGE_SECONDS: Final = 10.0
"""For making a page: as long as Prometheus waits for one."""
_INDEX: Final = "/"
_API_HELP: Final = "the API, for those who have a token"


class Site:
    """Answers requests."""

    def __init__(self, source: PageSource, api: HttpApi) -> None:
        self._source = source
        self._api = api
        self._status_page = StatusPage()

    async def answer(self, request: PageRequest) -> HttpAnswer | EventStream:
        """Return the answer to a request; to HEAD the same as to GET, for the server to send without its body."""
        path = request.path
        if path == BASE or path.startswith(f"{BASE}/"):
            return await self._api.answer(request)
        page, file = PAGES.get(path), self._status_page.answer(path)
        if page is None and file is None and path != _INDEX:
            return said(HTTPStatus.NOT_FOUND, f"There is only:\n{self._listing()}")
        if request.method not in READING:
            return said(HTTPStatus.METHOD_NOT_ALLOWED, "", ("Allow", ", ".join(READING)))
        if file is not None:
            return file
        if page is None:
            return self._index(request)
        try:
            with trio.fail_after(PAGE_SECONDS):
                return await page.answer(self._source, request)
        except trio.TooSlowError:
            return said(HTTPStatus.SERVICE_UNAVAILABLE, "too many are asking")

    def _index(self, request: PageRequest) -> HttpAnswer:
        if request.accepts(JSON):
            return json_answer({"pages": self._pages()})
        if request.accepts("text/html") and self._api.is_on:
            return to_page()
        return said(HTTPStatus.OK, self._listing())

    def _listing(self) -> str:
        return "\n".join(f"{path}  {help}" for path, help in self._pages().items())

    def _pages(self) -> dict[str, str]:
        pages = {path: page.help for path, page in PAGES.items()}
        return {**pages, UI: UI_HELP, BASE: _API_HELP} if self._api.is_on else pages
