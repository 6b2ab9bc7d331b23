"""Starting the programs: each in a folder of its own, some in a terminal of their own."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio
from real import programs

from clients.catalogue import Place, Prepared, Program

_ROWS_AND_COLUMNS: Final = (40, 120)
_TESTS: Final = Path(__file__).parents[1]


@asynccontextmanager
async def running(program: Program, prepared: Prepared, place: Place) -> AsyncIterator[Path]:
    """The program at that place, ended by its id at the end. The file into which all goes that it says."""
    place.home.mkdir(parents=True)
    program.furnish(place)
    log = place.home / "output.log"
    path = os.pathsep.join((str(_TESTS), str(_TESTS / "helpers")))
    env = {**os.environ, **place.environment, "PYTHONPATH": path, "TERM": "xterm", "LANG": "C.UTF-8"}
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        env.pop(name, None)
    words = prepared.words(place)
    with log.open("wb") as output:
        if not program.terminal:
            process = await trio.lowlevel.open_process(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=place.home
            )
            try:
                yield log
            finally:
                await programs.end(process, seconds=3.0)  # for one that ends another first, such as a browser
            return
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", *_ROWS_AND_COLUMNS, 0, 0))
        process = await trio.lowlevel.open_process(words, stdin=its, stdout=its, stderr=its, env=env, cwd=place.home)
        os.close(its)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_drain, ours, log)
                yield log
                nursery.cancel_scope.cancel()
        finally:
            await programs.end(process, seconds=1.0)
            os.close(ours)


async def _drain(terminal: int, log: Path) -> None:
    """The program's output has to be read, or it waits."""
    with log.open("ab") as output:
        while True:
            await trio.lowlevel.wait_readable(terminal)
            try:
                data = os.read(terminal, 65536)
            except OSError:  # the other end is closed
                return
            output.write(data)
            output.flush()
