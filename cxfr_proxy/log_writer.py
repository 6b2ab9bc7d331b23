"""Writing lines so that nobody waits for it.

Whoever reads the log may stand still (a logger that hangs, a full pipe of a container's) or be gone, a disk may be full
or slow. None of it is a reason to serve nobody, so a thread writes, and what it can't keep up with is dropped, counted,
and told as soon as lines can be written again.

Why a thread, and not a descriptor that doesn't block: that would not be this process's alone. What ``O_NONBLOCK`` says,
it says for everybody who has the same pipe, the workers and the shell that has started all of it among them; and a file
blocks anyway.

*Lines stay whole.* A pipe takes up to :data:`WHOLE_BYTES` at once or not at all, whoever else writes to it (POSIX,
``PIPE_BUF``); no more goes out by one call, and the calls end where lines do. Who makes lines keeps to that length.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple

WHOLE_BYTES: Final = 4096
MAX_WAITING_BYTES: Final = 4 << 20
"""Some 20,000 lines: more than a drain of as many clients writes while a logger is restarted."""
RETRY_SECONDS: Final = 5.0
"""After a line could not be written, until what was lost is told without a further line."""


class _Line(NamedTuple):
    data: bytes
    counts: int = 1
    """As so many lines, if it is lost: one that tells of others stands for them."""


_WAKE: Final = _Line(b"", 0)


class LineWriter:
    """Writes to ``descriptor``, which stays the caller's. ``tell_lost`` makes the line that says how many were lost.

    ``tick`` is called by the thread now and then and says in how many seconds it wants to be called again; ``None``:
    behind the next line. Any thread may call the methods, and so may what Python calls by itself (``__del__``).
    """

    def __init__(
        self,
        descriptor: int,
        tell_lost: Callable[[int], str],
        tick: Callable[[], float | None] = lambda: None,
        *,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self._descriptor = descriptor
        self._tell_lost = tell_lost
        self._tick = tick
        self._max_waiting_bytes = max_waiting_bytes
        self._lock = threading.RLock()  # may be entered again by a finalizer in the middle of anything
        self._lines: SimpleQueue[_Line] = SimpleQueue()  # which may be used there, too
        self._next: _Line | None = None  # taken out of the queue, and not written yet
        self._waiting_bytes = 0
        self._lost = 0
        self._torn = False  # the last line was cut off by a failure
        self._idle = threading.Event()
        self._idle.set()
        self._thread: threading.Thread | None = None

    def write(self, line: str) -> None:
        """Have the line written, without its end. Returns at once, whatever becomes of it."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            if self._waiting_bytes + len(data) > self._max_waiting_bytes:
                self._lost += 1
                return
            self._queue_lost()
            self._queue(_Line(data))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()

    def flush(self, seconds: float) -> bool:
        """Wait until all is written, or can't be, for so long at most; whether nothing waits any more."""
        self._lines.put(_WAKE)
        return self._thread is None or self._idle.wait(seconds)

    def _queue(self, line: _Line) -> None:
        self._waiting_bytes += len(line.data)
        self._idle.clear()
        self._lines.put(line)

    def _queue_lost(self) -> None:
        """Where it belongs: behind what came before it, and in front of what comes next."""
        lost, self._lost = self._lost, 0
        if lost:
            self._queue(_Line(self._tell_lost(lost).encode() + b"\n", lost))

    # --- the thread

    def _run(self) -> None:
        pause: float | None = None
        while True:
            lines = self._take(pause)
            written = self._put_out(lines)
            with self._lock:
                self._waiting_bytes -= sum(len(line.data) for line in lines)
                if not written:
                    self._lost += sum(line.counts for line in lines)
                elif not self._waiting_bytes:
                    self._queue_lost()
                if not self._waiting_bytes:
                    self._idle.set()
                retry = RETRY_SECONDS if self._lost else None
            due = self._tick()
            pause = min((each for each in (retry, due) if each is not None), default=None)

    def _take(self, seconds: float | None) -> list[_Line]:
        """The next lines that go out together; none after so many ``seconds`` in which nothing came."""
        first, self._next = self._next, None
        if first is None:
            try:
                first = self._lines.get(timeout=seconds)
            except Empty:
                return []
        lines, size = [first], len(first.data)
        while not self._lines.empty():
            line = self._lines.get()
            size += len(line.data)
            if size > WHOLE_BYTES:
                self._next = line
                break
            lines.append(line)
        return lines

    def _put_out(self, lines: list[_Line]) -> bool:
        """Whether they were written. Blocks for as long as it takes."""
        data = b"".join(line.data for line in lines)
        if self._torn:
            data = b"\n" + data
        try:
            while data:
                written = os.write(self._descriptor, data)
                self._torn = not data[:written].endswith(b"\n")
                data = data[written:]
        except OSError:
            return False
        return True
