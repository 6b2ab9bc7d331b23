"""The status page: files that a browser puts together, and fills from the API.

The files are no secret, so everybody who can connect gets them, by whatever name. The page asks the API for all that it
shows, with the token of whoever looks at it. It loads nothing from elsewhere and runs no script but its own: names of
nodes, JIDs and reasons were written by strangers, and stand on it as text.
"""

from __future__ import annotations

from http import HTTPStatus
from importlib.resources import files
from typing import Final

from cxfr_proxy.admin.http.exchange import HttpAnswer, said

UI: Final = "/ui/"
UI_HELP: Final = "the status page, for those who have a token"
_INDEX: Final = "index.html"
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "connect-src 'self'",
        "img-src 'self'",
        "script-src 'self'",
        "style-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # No string becomes markup or a script, in browsers that know this.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS: Final = (
    ("Content-Security-Policy", _POLICY),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "same-origin"),
)


def to_page() -> HttpAnswer:
    """Return the answer that leads a browser to the page, from ``/`` or ``/ui``."""
    return said(HTTPStatus.TEMPORARY_REDIRECT, "", ("Location", UI[1:]))  # relative: another server may be in front


class StatusPage:
    """The files, all read at once: a new installation's, under a proxy that still runs, would not fit its API."""

    def __init__(self) -> None:
        self._answers: dict[str, HttpAnswer] = {}
        for file in (files(__package__) / "page").iterdir():
            content_type = _TYPES["." + file.name.rpartition(".")[2]]
            self._answers[UI + file.name] = HttpAnswer(HTTPStatus.OK, file.read_bytes(), content_type, _HEADERS)
        self._answers[UI] = self._answers[UI + _INDEX]
        self._answers[UI[:-1]] = to_page()

    def answer(self, path: str) -> HttpAnswer | None:
        """Return the answer for a path; ``None``: the page has nothing there."""
        return self._answers.get(path)
