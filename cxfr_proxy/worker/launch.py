"""Start a worker as a process of its own."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import trio

from cxfr_proxy import shortage
from cxfr_proxy.ipc.channel import StreamChannel
from cxfr_proxy.ipc.codec import MESSAGES
from cxfr_proxy.ipc.launch import Launched


class _Process:
    ends_unheard = True

    def __init__(self, process: trio.Process, stream: trio.SocketStream) -> None:
        self._process = process
        self.channel = StreamChannel(stream, MESSAGES)
        self.pid = process.pid

    async def wait(self) -> int:
        return await self._process.wait()

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)


_PROGRAM: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from cxfr_proxy import signals; signals.ignore(); "
    "from cxfr_proxy.worker.process import main; main()"
)
"""The program of a worker: it finds the modules where this process did, and nothing in the directory it happens to
be in. Signals that a service manager sends to all processes come at any time, so they are ignored before anything is
loaded."""


class WorkerProcesses:
    """Starts each worker as a process of its own."""

    async def launch(self, listening: Sequence[socket.socket]) -> Launched:
        """Start a fresh interpreter, in a process group of its own: what a terminal sends is for the supervisor."""
        ours, theirs = socket.socketpair()
        try:
            with theirs, shortage.of_threads():
                inherited = [theirs.fileno(), *(sock.fileno() for sock in listening)]
                process = await trio.lowlevel.open_process(
                    [sys.executable, "-P", "-c", _PROGRAM, json.dumps(sys.path), *map(str, inherited)],
                    pass_fds=inherited,
                    stdin=subprocess.DEVNULL,
                    process_group=0,
                )
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        return _Process(process, trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
