"""The real command under something that listens where systemd would."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import trio
from e2e_proxy import PATIENCE_SECONDS, command, nodes_file, running
from fake_manager import FakeManager

from cxfr_proxy.demo.node import DemoNode


async def test_what_systemd_hears(tmp_path: Path) -> None:
    """Ready, a reload that it has asked for by a signal, signs of life, and the end."""
    node = DemoNode("node1")
    with FakeManager.in_directory(tmp_path) as manager:
        within = ("env", f"NOTIFY_SOCKET={manager.address}", "WATCHDOG_USEC=1000000")
        async with running(node) as nursery:
            file = nodes_file(tmp_path, [node])
            async with command(nursery, tmp_path, file, "--workers", "2", within=within) as proxy:
                with trio.fail_after(PATIENCE_SECONDS):
                    await manager.hears("READY=1")
                    for _ in range(3):
                        await manager.hears("WATCHDOG=1")
                    asked = time.monotonic()
                    proxy.process.send_signal(signal.SIGHUP)
                    begun = await manager.hears("RELOADING=1,MONOTONIC_USEC=")
                    assert int(begun.rpartition("=")[2]) >= asked * 1_000_000, "systemd takes no older one for its own"
                    await manager.hears("READY=1")
                    proxy.process.send_signal(signal.SIGTERM)
                    assert await manager.hears("STOPPING=1") == "STOPPING=1,EXTEND_TIMEOUT_USEC=35000000"
                    assert await proxy.ended() == 0
