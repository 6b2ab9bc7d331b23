"""The page's web server: serves a few files, and keeps what the page says of itself."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trio
from waiting import until

Event = dict[str, Any]  # Any: JSON of the page's


class Site:
    """The page's own server. ``events`` is all that the page has said, in order, with its time on trio's clock."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.events: list[tuple[float, Event]] = []

    def of(self, **facts: object) -> list[float]:
        """When the page has said that."""
        return [when for when, event in self.events if facts.items() <= event.items()]

    async def wait(self, count: int = 1, **facts: object) -> float:
        """When the page has said that for the ``count``-th time."""
        await until(lambda: len(self.of(**facts)) >= count, f"the page says {facts}: {self.events[-5:]}")
        return self.of(**facts)[count - 1]


@contextmanager
def open_site(files: Mapping[str, Path]) -> Iterator[Site]:
    """Serve these files, by their names in the URL, on a port of the loopback interface."""
    kinds = {".html": "text/html; charset=utf-8", ".js": "text/javascript"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = files.get(self.path.partition("?")[0].removeprefix("/"))
            if path is None:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            self._answer(path.read_bytes(), kinds[path.suffix])

        def do_POST(self) -> None:
            event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            trio.from_thread.run_sync(lambda: site.events.append((trio.current_time(), event)), trio_token=token)
            self._answer(b"", "text/plain")

        def _answer(self, body: bytes, kind: str) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Nobody reads it."""

    token = trio.lowlevel.current_trio_token()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site = Site(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
