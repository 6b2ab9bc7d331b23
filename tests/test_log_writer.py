"""Writing the log: nobody waits, lines stay whole, and what was lost is told."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from cxfr_proxy.log_writer import WHOLE_BYTES, LineWriter

PATIENCE_SECONDS = 60.0
F_SETPIPE_SZ = 1031


def report_lost(lines: int) -> str:
    return f"log-lost lines={lines}"


@contextmanager
def small_pipe() -> Iterator[tuple[int, int]]:
    """It holds a page."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, F_SETPIPE_SZ, 4096)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


def read_lines(descriptor: int, until: bytes) -> list[str]:
    data = b""
    while until not in data:
        more = os.read(descriptor, 1 << 16)
        assert more, data
        data += more
    return data.decode().splitlines()


def test_a_reader_that_stands_still_holds_up_nobody() -> None:
    with small_pipe() as (reading, writing):
        writer = LineWriter(writing, report_lost, max_waiting_bytes=20_000)
        for number in range(10_000):
            writer.write(f"line {number} {'x' * 90}")
        assert not writer.flush(0.01)
        lines = read_lines(reading, b"log-lost")
        assert writer.flush(PATIENCE_SECONDS)
        writer.write("the end")
        lines += read_lines(reading, b"the end\n")
    due = 0
    for line in lines[:-1]:
        if line.startswith("log-lost"):
            due += int(line.partition("=")[2])  # it stands where they are missing
        else:
            assert line == f"line {due} {'x' * 90}"
            due += 1
    assert due == 10_000


def test_lines_of_several_writers_stay_whole() -> None:
    with small_pipe() as (reading, writing):
        writers = [LineWriter(writing, report_lost) for _ in range(3)]
        line = "x" * (WHOLE_BYTES - 2)
        for _ in range(50):
            for name, writer in zip("abc", writers, strict=True):
                writer.write(name + line)
                writer.write(name + "short")
        left = threading.Thread(target=lambda: [writer.flush(PATIENCE_SECONDS) for writer in writers])
        left.start()
        lines: list[str] = []
        while len(lines) < 300:
            lines += _next_lines(reading)
        left.join()
    assert sorted(lines) == sorted([name + rest for name in "abc" for rest in (line, "short")] * 50)


def _next_lines(descriptor: int) -> list[str]:
    data = b""
    while not data.endswith(b"\n"):
        data += os.read(descriptor, 1 << 16)
    return data.decode().splitlines()


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def nobody_reads() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("broken", [full_disk, nobody_reads])
def test_what_fails_is_counted_and_told_when_it_works_again(broken: Callable[[], int]) -> None:
    descriptor = broken()
    reading, writing = os.pipe()
    try:
        writer = LineWriter(descriptor, report_lost)
        for number in range(3):
            writer.write(f"lost {number}")
            assert writer.flush(PATIENCE_SECONDS)
        os.dup2(writing, descriptor)
        writer.write("back")
        assert read_lines(reading, b"back\n") == ["log-lost lines=3", "back"]
    finally:
        for each in (descriptor, reading, writing):
            os.close(each)


def test_lines_are_written_where_there_is_no_thread_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, by whoever brings them; and by a thread as soon as there is one."""
    real, started = threading.Thread.start, 0

    def start(thread: threading.Thread) -> None:
        nonlocal started
        started += 1
        if started <= 2:
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    reading, writing = os.pipe()
    try:
        writer = LineWriter(writing, report_lost)
        for number in (1, 2):
            writer.write(f"line {number}")
            assert os.read(reading, 100) == f"line {number}\n".encode()
            assert writer.flush(0)
        writer.write("line 3")
        assert read_lines(reading, b"line 3\n") == ["line 3"]
        assert writer.flush(PATIENCE_SECONDS)
    finally:
        os.close(reading)
        os.close(writing)


def test_a_thread_that_has_met_a_fault_has_a_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    failed, ticks = threading.Event(), iter([True])
    monkeypatch.setattr(threading, "excepthook", lambda _: failed.set())

    def tick() -> None:
        if next(ticks, False):
            raise MemoryError

    reading, writing = os.pipe()
    try:
        writer = LineWriter(writing, report_lost, tick)
        writer.write("before")
        assert failed.wait(PATIENCE_SECONDS)
        writer.write("behind")
        assert read_lines(reading, b"behind\n") == ["before", "behind"]
        assert writer.flush(PATIENCE_SECONDS)
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("threads", [True, False])
def test_a_finalizer_may_write_in_the_middle_of_a_call(monkeypatch: pytest.MonkeyPatch, threads: bool) -> None:
    """At each place in turn: nobody waits for themselves, and what waits is counted right."""
    real, places_tried = threading.Thread.start, 20 if threads else 60

    def start(thread: threading.Thread) -> None:
        if thread.name == "log" and not threads:
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    reading, writing = os.pipe()
    try:
        writer = LineWriter(writing, report_lost)
        inner = 0

        def write(place: int) -> None:
            places = iter(range(place + 1))

            def on_call(*_: object) -> None:
                nonlocal inner
                if next(places, -1) == place:
                    writer.write("inner")
                    inner += 1

            sys.setprofile(on_call)
            writer.write("outer")
            sys.setprofile(None)

        writer.write("the first starts the thread")
        for place in range(places_tried):
            assert writer.flush(PATIENCE_SECONDS)
            thread = threading.Thread(target=write, args=(place,), daemon=True)
            thread.start()
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()
        writer.write("the end")
        lines = read_lines(reading, b"the end\n")
        assert lines.count("outer") == places_tried
        assert lines.count("inner") == inner > 5
    finally:
        os.close(reading)
        os.close(writing)


def test_who_ticks_is_asked_again() -> None:
    ticked = threading.Event()
    times = []

    def tick() -> float | None:
        times.append(1)
        if len(times) == 3:
            ticked.set()
        return 0.0 if len(times) < 3 else None

    reading, writing = os.pipe()
    try:
        LineWriter(writing, report_lost, tick).write("x")
        assert ticked.wait(PATIENCE_SECONDS)
    finally:
        os.close(reading)
        os.close(writing)
