"""The proxy under test, as an operator runs it: the command, its control socket, its log."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio
from asking import show
from proxy_log import LoggingProcess, Row
from waiting import patient_line

from real import programs
from real.certs import Certificate
from real.programs import HOST

_MODULE: Final = (sys.executable, "-m", "cxfr_proxy")


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended."""

    code: int
    output: str
    seconds: float


class ProxyProcess(LoggingProcess):
    """The proxy, and what an operator does with it."""

    def __init__(self, process: trio.Process, port: int, control: Path, nodes_file: Path) -> None:
        super().__init__(process)
        self.host = HOST
        self.port = port
        self.nodes_file = nodes_file
        self._control = control

    async def command(self, *words: str, seconds: float = 60.0) -> Finished:
        """``cxfr-proxy WORDS --control …``. Raises ``trio.TooSlowError``, and then the command is killed."""
        began = trio.current_time()
        with trio.fail_after(seconds):
            done = await trio.run_process(
                [*_MODULE, *words, "--control", str(self._control)],
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
            )
        return Finished(done.returncode, done.stdout.decode(), trio.current_time() - began)

    async def drain(self, node: str, *, wait: bool = True, seconds: float = 60.0) -> Finished:
        """``drain NODE [--wait]``: with ``wait`` it exits with 0 once the node is empty."""
        return await self.command("drain", node, *(["--wait"] if wait else []), seconds=seconds)

    async def show(self, what: str) -> list[Row]:
        """The rows of ``show nodes|sessions|transfers --json``, of all workers, without a process for the question."""
        rows: list[Row] = await show(self._control, what)
        return rows

    def defects(self) -> list[Row]:
        """Lines with a traceback, or that are no log lines at all: nothing a remote party does may cause one."""
        return [line for line in self.log if "raw" in line or "exception" in line["fields"]]

    def log_tail(self, lines: int = 60) -> str:
        """The end of the log, for the message of a failure."""
        return "\n".join(json.dumps(line) for line in self.log[-lines:])

    async def _wait_accepting(self) -> None:
        try:
            await programs.wait_accepting(self.host, self.port, self.process)
            # The kernel accepts before there are workers, and a client may have less patience than they need to start.
            await self.event("listening")
        except AssertionError as exc:
            await trio.lowlevel.checkpoint()  # what it said when it died may still be in the pipe
            raise AssertionError(f"{exc}\n{self.log_tail()}") from exc


@asynccontextmanager
async def open_proxy(
    folder: Path,
    nodes: Iterable[str],
    certificate: Certificate,
    *,
    port: int | None = None,
    options: Sequence[str] = (),
) -> AsyncIterator[ProxyProcess]:
    """A running proxy on ``port`` (``None``: a free one), with these lines as its nodes file.

    At the end it gets SIGTERM, then SIGKILL. If the block fails, the end of the log is a note on the exception;
    a :meth:`~ProxyProcess.defects` in the log fails it too.
    """
    async with AsyncExitStack() as stack:
        # Not under ``folder``: a unix socket's path is limited to 107 characters.
        control = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cxfr-"))) / "control"
        nodes_file = folder / "nodes.txt"
        nodes_file.write_text("".join(f"{patient_line(line)}\n" for line in nodes), "utf-8")
        port = port if port is not None else programs.free_port()
        process = await trio.lowlevel.open_process(
            [
                *_MODULE,
                *("--backends", str(nodes_file), "--listen", f"{HOST}:{port}", "--control", str(control)),
                *("--certificate", str(certificate.certificate), "--key", str(certificate.key)),
                *("--wrong-node", "keep", "--rebalance", "manual", "--log-format", "json"),
                *("--node-greeting-timeout", "60s", "--node-connect-timeout", "60s", "--tls-handshake-timeout", "60s"),
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        stack.push_async_callback(_end, process)
        proxy = ProxyProcess(process, port, control, nodes_file)
        await stack.enter_async_context(programs.background(proxy.read_log))
        stack.push_async_callback(programs.end, process, seconds=3.0)  # while its log is still read
        await proxy._wait_accepting()
        try:
            yield proxy
            assert not proxy.defects(), "the proxy logged a defect of its own"
        except Exception as exc:
            exc.add_note("the proxy's log ends:\n" + proxy.log_tail())
            raise


async def _end(process: trio.Process) -> None:
    await programs.end(process, seconds=0)
    if process.stderr is not None:
        with trio.CancelScope(shield=True):  # closing a pipe does not block
            await process.stderr.aclose()
