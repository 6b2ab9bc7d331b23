"""The list in a file: loading, and waiting for another version, on a clock that jumps."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cxfr_proxy.cluster.nodes_file import NodesFileError
from cxfr_proxy.cluster.sources.file import MAX_FILE_BYTES, NodesFile
from cxfr_proxy.cluster.sources.source import SourceState
from cxfr_proxy.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "nodes.txt"
    path.write_text("a h\n")
    return path


def names(source: NodesFile) -> list[str]:
    return [spec.name for spec in source.load()]


def write(path: Path, text: str, mtime_ns: int | None = None) -> None:
    """In place. ``mtime_ns`` moves the time stamp on, where the file system's clock may be too coarse to."""
    path.write_text(text)
    if mtime_ns is not None:
        os.utime(path, ns=(mtime_ns, mtime_ns))


async def seconds_to_notice(source: NodesFile, *events: tuple[float, Callable[[], object]]) -> float:
    """How long ``wait_changed`` takes while ``events`` happen at their seconds; ``inf`` for not within 100."""
    start = trio.current_time()

    async def happen() -> None:
        for at, event in events:
            await trio.sleep_until(start + at)
            event()

    noticed = float("inf")
    with trio.move_on_after(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(happen)
            await source.wait_changed()
            noticed = trio.current_time() - start
            nursery.cancel_scope.cancel()
    return noticed


def test_load(path: Path) -> None:
    source = NodesFile(path)
    assert names(source) == ["a"]
    path.write_text("b h # gr\u00fc\u00dfe\n", encoding="utf-8")
    assert names(source) == ["b"]


def test_faults_bear_the_path_as_given(path: Path) -> None:
    path.write_text("a h:0\n")
    with pytest.raises(NodesFileError) as caught:
        NodesFile(str(path)).load()
    assert str(caught.value) == f"{path}:1:5: expected a port from 1 to 65535, found '0'"


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "none.txt"
    with pytest.raises(ConfigError) as caught:
        NodesFile(path).load()
    assert str(caught.value) == f"{path}: expected a readable list of nodes, found: No such file or directory"
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        NodesFile(tmp_path).load()


def test_another_encoding_names_line_and_column(path: Path) -> None:
    path.write_bytes("a h\n# \u00fc ".encode() + b"\xfc\nb h\n")
    with pytest.raises(NodesFileError) as caught:
        NodesFile(path).load()
    assert str(caught.value) == f"{path}:2:5: expected UTF-8, found the byte 0xfc"


def test_a_file_that_cannot_be_meant(path: Path) -> None:
    path.write_bytes(b"a h\n" + b"#" * (MAX_FILE_BYTES - 4))
    assert names(NodesFile(path)) == ["a"]
    with path.open("ab") as file:
        file.write(b"#")
    with pytest.raises(ConfigError, match="at most 4194304 bytes"):
        NodesFile(path).load()


async def test_an_untouched_file_is_no_change(path: Path, autojump_clock: MockClock) -> None:
    source = NodesFile(path)
    source.load()
    assert await seconds_to_notice(source) == float("inf")


async def test_a_write_in_place_is_noticed_once_it_rests(path: Path, autojump_clock: MockClock) -> None:
    source = NodesFile(path, poll_seconds=2.0)
    source.load()
    assert await seconds_to_notice(source, (5.0, lambda: write(path, "a h\nb h\n"))) == 8.0
    assert names(source) == ["a", "b"]
    assert await seconds_to_notice(source) == float("inf")


@pytest.mark.parametrize(
    "touch",
    [
        pytest.param(lambda path: write(path, "b h\n", 10**18), id="same size, other time"),
        pytest.param(lambda path: write(path, "b hh\n", path.stat().st_mtime_ns), id="same time, other size"),
    ],
)
async def test_time_and_size_each_count(path: Path, autojump_clock: MockClock, touch: Callable[[Path], None]) -> None:
    source = NodesFile(path)
    source.load()
    assert await seconds_to_notice(source, (0.5, lambda: touch(path))) == 2.0


async def test_a_replaced_file_of_same_time_and_size_is_a_change(path: Path, autojump_clock: MockClock) -> None:
    source = NodesFile(path)
    source.load()
    new = path.with_suffix(".new")
    write(new, "b h\n", os.stat(path).st_mtime_ns)
    assert await seconds_to_notice(source, (0.5, lambda: new.replace(path))) == 2.0
    assert names(source) == ["b"]


async def test_a_file_still_being_written_is_left_alone(path: Path, autojump_clock: MockClock) -> None:
    """Half a list is a valid list of fewer nodes."""
    source = NodesFile(path)
    source.load()
    events = [(at + 0.5, lambda at=at: write(path, "n h\n" * (at + 2))) for at in range(5)]
    assert await seconds_to_notice(source, *events) == 6.0


async def test_a_vanished_file_is_a_change_only_when_it_is_back(path: Path, autojump_clock: MockClock) -> None:
    source = NodesFile(path)
    source.load()
    assert await seconds_to_notice(source, (0.5, path.unlink)) == float("inf")
    assert await seconds_to_notice(source, (10.5, lambda: write(path, "b h\nc h\n"))) == 12.0


async def test_a_change_before_the_wait_is_noticed(path: Path, autojump_clock: MockClock) -> None:
    source = NodesFile(path)
    source.load()
    write(path, "a h\nb h\n")
    assert await seconds_to_notice(source) == 1.0


async def test_a_bad_version_is_reported_once_and_the_next_one_noticed(path: Path, autojump_clock: MockClock) -> None:
    source = NodesFile(path)
    write(path, "a h:0\n")
    with pytest.raises(NodesFileError):
        source.load()
    assert await seconds_to_notice(source) == float("inf")
    assert await seconds_to_notice(source, (0.5, lambda: write(path, "a h\n"))) == 2.0


async def test_a_file_that_was_missing_at_load_is_awaited(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = tmp_path / "late.txt"
    source = NodesFile(path)
    with pytest.raises(ConfigError):
        source.load()
    assert await seconds_to_notice(source, (3.5, lambda: write(path, "a h\n"))) == 5.0


async def test_an_unreadable_thing_is_not_tried_every_second(tmp_path: Path, autojump_clock: MockClock) -> None:
    source = NodesFile(tmp_path)
    with pytest.raises(ConfigError):
        source.load()
    assert await seconds_to_notice(source) == float("inf")


async def test_a_cancelled_wait_loses_no_change(path: Path, autojump_clock: MockClock) -> None:
    source = NodesFile(path)
    source.load()
    write(path, "a h\nb h\n")
    with trio.move_on_after(0.5) as scope:
        await source.wait_changed()
    assert scope.cancelled_caught
    assert await seconds_to_notice(source) == 1.0


async def test_a_file_that_is_gone_is_lost_until_it_is_back(
    path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not read again where it comes back as it was; one that is replaced is not missed."""
    caplog.set_level("INFO")
    source = NodesFile(path)
    source.load()
    aside = path.with_suffix(".aside")

    def state_is(state: SourceState) -> Callable[[], object]:
        def look() -> None:
            assert source.status.state is state

        return look

    events = (
        (1.5, lambda: path.rename(aside)),
        (2.4, state_is(SourceState.WELL)),
        (3.5, state_is(SourceState.LOST)),
        (9.5, lambda: aside.rename(path)),
        (10.5, state_is(SourceState.WELL)),
    )
    assert await seconds_to_notice(source, *events) == float("inf")
    assert [record.message for record in caplog.records] == ["source-lost", "source-back"]
