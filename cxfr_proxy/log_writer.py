"""Write lines without making anybody wait.

The program that reads the log may stand still (a logger that hangs, a full pipe of a container) or be gone, and a disk
may be full or slow. None of this is a reason to stop serving. So a thread writes; lines that it can't keep up with are
dropped and counted, and the log says so as soon as lines can be written again.

A descriptor that doesn't block would not do, because ``O_NONBLOCK`` holds for everybody who shares the pipe, the
workers and the shell that has started them included; and files block anyway.

*Lines stay whole.* A pipe takes up to :data:`WHOLE_BYTES` at once or not at all, whoever else writes to it (POSIX,
``PIPE_BUF``). No call writes more than that, and calls end where lines do. Callers keep lines to that length.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

from msgspec import Struct

WHOLE_BYTES: Final = 4096
MAX_WAITING_BYTES: Final = 4 << 20
"""Room for some 20,000 lines: more than a drain of as many clients writes while a logger is restarted."""
GATHER_SECONDS: Final = 0.02
"""Lines of so long a time go out together. Waking the thread for each line takes two switches between threads, and
passes the GIL back and forth."""
RETRY_SECONDS: Final = 5.0
"""The pause after a line could not be written, until the loss is reported without waiting for a further line."""


class _Line(Struct, frozen=True, gc=False):
    data: bytes
    counts: int = 1
    """How many lines this one counts for if it is lost: a line that reports others stands for them."""


_WAKE: Final = _Line(b"", 0)


class LineWriter:
    """Writes to ``descriptor``, which stays the caller's. ``report_lost`` makes the line that says how many were lost.

    The thread calls ``tick`` now and then; it returns the seconds until it wants to be called again, or ``None`` to be
    called after the next line. Any thread may call the methods, and so may code that Python calls by itself
    (``__del__``).
    """

    def __init__(
        self,
        descriptor: int,
        report_lost: Callable[[int], str],
        tick: Callable[[], float | None] = lambda: None,
        *,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self._descriptor = descriptor
        self._report_lost = report_lost
        self._tick = tick
        self._max_waiting_bytes = max_waiting_bytes
        self._lock = threading.RLock()  # may be entered again by a finalizer in the middle of anything
        self._lines: SimpleQueue[_Line] = SimpleQueue()  # which may be used there, too
        self._next: _Line | None = None  # taken out of the queue, and not written yet
        self._waiting_bytes = 0
        self._lost = 0
        self._torn = False  # the last line was cut off by a failure
        self._idle = threading.Condition(self._lock)  # no Event: its lock may not be entered again
        self._hurry = threading.Event()  # somebody waits for what is in the queue
        self._thread: threading.Thread | None = None

    def write(self, line: str) -> None:
        """Queue the line, given without its end. Return at once, whatever becomes of it."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            if self._waiting_bytes + len(data) > self._max_waiting_bytes:
                self._lost += 1
                return
            if self._lost:
                self._queue_lost()
            self._queue(_Line(data))
            if self._thread is None:
                self._begin()

    def _begin(self) -> None:
        """Start the thread. Where the system has none for this process, write here: somebody waits for once, and the
        log says what becomes of a process that lacks threads."""
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None
            with suppress(Empty):  # a finalizer that logs may empty the queue at any point here
                while True:
                    self._write_together([self._lines.get_nowait()])

    def flush(self, seconds: float) -> bool:
        """Wait at most that long until all is written, or can't be. Return whether nothing is queued any more."""
        self._lines.put(_WAKE)
        self._hurry.set()
        with self._idle:
            return self._thread is None or self._idle.wait_for(lambda: not self._waiting_bytes, seconds)

    def _queue(self, line: _Line) -> None:
        size = len(line.data)
        self._waiting_bytes += size  # without a call in it, in the middle of which a finalizer may come here
        self._lines.put(line)

    def _queue_lost(self) -> None:
        """Put the report of lost lines where it belongs: behind what came before it, in front of what comes next."""
        lost, self._lost = self._lost, 0
        self._queue(_Line(self._report_lost(lost).encode() + b"\n", lost))

    # --- the thread

    def _run(self) -> None:
        try:
            self._write_on()
        finally:  # it has met a fault, which is the next line, and that one begins another thread
            with self._lock:
                self._thread = None

    def _write_on(self) -> None:
        pause: float | None = None
        while True:
            self._write_together(self._take(pause))
            with self._lock:
                retry = RETRY_SECONDS if self._lost else None
            due = self._tick()
            pause = min((each for each in (retry, due) if each is not None), default=None)

    def _write_together(self, lines: list[_Line]) -> None:
        written = self._put_out(lines)
        with self._lock:
            self._waiting_bytes -= sum(len(line.data) for line in lines)
            if not written:
                self._lost += sum(line.counts for line in lines)
            elif self._lost and not self._waiting_bytes:
                self._queue_lost()
            if not self._waiting_bytes:
                self._idle.notify_all()

    def _take(self, seconds: float | None) -> list[_Line]:
        """Return the next lines to write together; none if nothing came for so many ``seconds``."""
        first, self._next = self._next, None
        if first is None:
            try:
                first = self._lines.get(timeout=seconds)
            except Empty:
                return []
            # More may come in a moment. While the thread waits here, a line that is queued wakes nobody.
            self._hurry.wait(GATHER_SECONDS)
            self._hurry.clear()
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
        """Write the lines, and return whether that worked. Blocks for as long as it takes."""
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
