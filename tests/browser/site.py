"""The pages' web server: serves some files, and keeps what the pages say of themselves."""

from __future__ import annotations

import json
import mimetypes
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import trio
from waiting import until

Event = dict[str, Any]  # Any: JSON of the page's


class Site:
    """The pages' own server. ``events`` is all that they have said, in order, with its time on trio's clock."""

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


_HERE: Final = Path(__file__).parent


def strophe(packages: Path) -> dict[str, Path]:
    """Return the files of the page with strophe.js, by their names in the URL. ``packages`` is npm's folder."""
    return {"": _HERE / "page.html", "strophe.esm.js": packages / "strophe.js/dist/strophe.esm.js"}


def converse(packages: Path) -> dict[str, Path]:
    """Return those of the page with Converse."""
    dist = packages / "converse.js" / "dist"
    return {str(path.relative_to(dist)): path for path in dist.rglob("*") if path.is_file()} | {
        "": _HERE / "converse.html"
    }


@contextmanager
def open_site(files: Mapping[str, Path]) -> Iterator[Site]:
    """Serve these files, by their names in the URL, on a port of the loopback interface."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = files.get(self.path.partition("?")[0].removeprefix("/"))
            if path is None:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            self._answer(path.read_bytes(), mimetypes.guess_type(path.name)[0] or "application/octet-stream")

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
