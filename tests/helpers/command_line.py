"""The command line beside a proxy that is a fake."""

from __future__ import annotations

from pathlib import Path

from fake_console import FakeConsole, proxy_in_thread

from cxfr_proxy.cli import main


def run(path: Path, *argv: str, fake: FakeConsole | None = None) -> int:
    """Return the exit code of that command, which finds the proxy at ``path``."""
    with proxy_in_thread(path, fake or FakeConsole()):
        return main([*argv, "--control", str(path)])
