"""Chromium without a window, asked by its DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import trio
import trio_websocket
from real import programs
from waiting import PATIENCE_SECONDS, until

_KEYS: Final = {"Tab": (9, ""), "Enter": (13, "\r"), "Escape": (27, "")}
"""The number of each key, and what it types."""


class Tab:
    """The one tab of a browser."""

    def __init__(self, socket: trio_websocket.WebSocketConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def _ask(self, method: str, **parameters: object) -> Any:  # Any: JSON
        number = next(self._numbers)
        await self._socket.send_message(json.dumps({"id": number, "method": method, "params": parameters}))
        with trio.fail_after(PATIENCE_SECONDS):
            while True:
                answer = json.loads(await self._socket.get_message())
                if answer.get("id") == number:
                    assert "error" not in answer, answer
                    return answer["result"]

    async def go(self, url: str) -> None:
        result = await self._ask("Page.navigate", url=url)
        assert "errorText" not in result, result

    async def run(self, script: str) -> None:
        """Evaluate it in the page."""
        result = await self._ask("Runtime.evaluate", expression=script)
        assert "exceptionDetails" not in result, result

    async def value(self, expression: str) -> Any:  # Any: JSON
        """Return what that is in the page."""
        result = await self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def press_key(self, key: str) -> None:
        """Press and release a key that has a name: ``Tab``, ``Enter``, ``Escape``."""
        code, typed = _KEYS[key]
        for kind in ("keyDown", "keyUp"):
            text = {"text": typed} if typed and kind == "keyDown" else {}
            await self._ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    async def look_as(self, scheme: str, width: int, height: int) -> None:
        """Have the page in a window of that size, in a ``light`` or ``dark`` scheme of colours."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await self._ask("Emulation.setDeviceMetricsOverride", **size)
        await self._ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def screenshot(self, file: Path) -> None:
        result = await self._ask("Page.captureScreenshot", format="png")
        await trio.Path(file).write_bytes(base64.b64decode(result["data"]))


@asynccontextmanager
async def open_tab(folder: Path, url: str) -> AsyncIterator[Tab]:
    """A browser that shows that page, whatever the certificates of the servers that the page connects to."""
    profile = folder / "profile"
    port_file = profile / "DevToolsActivePort"
    process = await programs.start(
        [
            "chromium",
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *("--ignore-certificate-errors", "--remote-debugging-port=0", f"--user-data-dir={profile}"),
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # pages come from here, and all that they want
            *("--window-size=1000,700", "about:blank"),
        ],
        output=folder / "chromium.log",
    )
    try:
        await until(lambda: port_file.exists() and port_file.read_text().count("\n") >= 1, "Chromium listens")
        port = int(port_file.read_text().splitlines()[0])
        target = await _tab(port)
        async with trio_websocket.open_websocket_url(target, max_message_size=1 << 26) as socket:
            tab = Tab(socket)
            await tab.go(url)
            yield tab
    finally:
        await programs.end(process)


async def _tab(port: int) -> str:
    """Return the DevTools WebSocket's URL of the one tab that is open."""
    tabs = json.loads(await trio.to_thread.run_sync(_get, f"http://127.0.0.1:{port}/json/list"))
    return next(str(tab["webSocketDebuggerUrl"]) for tab in tabs if tab["type"] == "page")


def _get(url: str) -> bytes:
    with urlopen(url, timeout=PATIENCE_SECONDS) as answer:
        body: bytes = answer.read()
    return body
