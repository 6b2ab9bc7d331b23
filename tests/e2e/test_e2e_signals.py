"""Signals that come while a process of the proxy is being started."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.lowlevel
from e2e_proxy import PATIENCE_SECONDS, command
from needs import needs_proc

from cxfr_proxy import signals


def _mask(pid: int, name: str) -> int:
    """``SigBlk`` or ``SigIgn`` of a process: a bit for each signal."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1], 16)
    raise AssertionError(name)


def _bits(numbers: tuple[signal.Signals, ...]) -> int:
    return sum(1 << (number - 1) for number in numbers)


async def _until_mask(pid: int, name: str, numbers: tuple[signal.Signals, ...]) -> None:
    bits = _bits(numbers)
    with trio.fail_after(PATIENCE_SECONDS):
        while _mask(pid, name) & bits != bits:
            await trio.lowlevel.checkpoint()


HUNG_UP_AT_ONCE = ("env", "--block-signal=HUP,USR1,USR2", "sh", "-c", 'kill -HUP $$; exec "$@"', "sh")


async def test_those_that_come_before_the_first_line_arrive_where_somebody_has_blocked_them(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    """As docs/commands.md says it."""
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("node1 127.0.0.1:1 check=none\n")
    async with command(nursery, tmp_path, nodes, "--workers", "1", within=HUNG_UP_AT_ONCE) as it:
        await it.event("reloaded")


@needs_proc
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_they_wait_until_they_can_be_taken(nursery: trio.Nursery, tmp_path: Path, workers: str) -> None:
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("node1 127.0.0.1:1 check=none\n")
    options = ("--workers", workers, "--log-format", "json", "--listen", "127.0.0.1:0")
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "cxfr_proxy", "--backends", str(nodes), "--control", str(tmp_path / "c.sock"), *options],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        await _until_mask(process.pid, "SigBlk", signals.HELD)
        for number in signals.HELD:
            process.send_signal(number)
        written = b""
        with trio.fail_after(PATIENCE_SECONDS):
            while not (b'"listening"' in written and b'"reloaded"' in written and b'"signal-ignored"' in written):
                data = await process.stderr.receive_some()
                assert data, written
                written += data
        process.terminate()
        with trio.fail_after(PATIENCE_SECONDS):
            assert await process.wait() == 0
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()


@needs_proc
async def test_workers_are_told_by_the_supervisor_alone(nursery: trio.Nursery, tmp_path: Path) -> None:
    """From before anything of theirs is loaded; and nothing is held back for ever."""
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("node1 127.0.0.1:1 check=none\n")
    async with command(nursery, tmp_path, nodes, "--workers", "2") as it:
        for row in await it.event("worker-up", 2):
            ignored = _mask(int(row["pid"]), "SigIgn")
            assert ignored & _bits(signals.ALL) == _bits(signals.ALL)
        assert not _mask(it.process.pid, "SigBlk") & _bits(signals.ALL)


async def test_commands_die_of_them() -> None:
    """A terminal that is closed ends what runs in it."""
    program = "import signal, sys; from cxfr_proxy.__main__ import main; sys.argv[1:] = ['demo', '--clients', 'x']\n"
    program += "try:\n    main()\nfinally:\n    print(signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    done = await trio.run_process([sys.executable, "-c", program], capture_stdout=True, capture_stderr=True)
    assert done.stdout.strip() == b"set()"
