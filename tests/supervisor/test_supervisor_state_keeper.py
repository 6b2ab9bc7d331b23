"""What outlives the process is on disk when an order is answered; what was learned, some time later."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import pytest
import trio
from fake_workers import house

from cxfr_proxy.cluster.kept_state import KeptState, read_state
from cxfr_proxy.cluster.nodes import AdminState
from cxfr_proxy.cluster.roll import RollRecord
from cxfr_proxy.cluster.shared import Directive
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.file_lock import FileLock
from cxfr_proxy.supervisor.orders.state_keeper import StateFile, StateKeeper
from cxfr_proxy.supervisor.workers.catch_up import CatchUp

DRAINED = Directive(AdminState.DRAIN)


class RefusingFile(StateFile):
    """A disk that is full as long as somebody says so."""

    full = True

    def write(self, content: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().write(content)


class Known:
    def __init__(self, known: Mapping[str, bool]) -> None:
        self.known = dict(known)

    def software_known(self) -> Mapping[str, bool]:
        return self.known

    def software_was_known(self, known: Mapping[str, bool]) -> None:
        self.known.update(known)


@asynccontextmanager
async def running(keeper: StateKeeper) -> AsyncIterator[StateKeeper]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        yield keeper
        nursery.cancel_scope.cancel()


def on_disk(path: Path) -> KeptState:
    return StateFile(path).read()


async def test_an_order_is_on_disk_when_it_has_settled(tmp_path: Path) -> None:
    path = tmp_path / "state"
    async with running(StateKeeper(StateFile(path), CatchUp(60.0))) as keeper:
        assert await keeper.settle() is None
        assert not path.exists(), "there is nothing to keep yet"
        keeper.keep_order("node1", DRAINED)
        assert await keeper.settle() is None
        assert on_disk(path).orders == {"node1": DRAINED}
        keeper.keep_pin("juliet@example.org", "node1")
        keeper.keep_roll(RollRecord(("node1",)))
        keeper.keep_order("node1", None)
        assert await keeper.settle() is None
        assert on_disk(path) == KeptState(pins={"juliet@example.org": "node1"}, roll=RollRecord(("node1",)))
        assert path.stat().st_mode & 0o777 == 0o600
        assert os.listdir(tmp_path) == ["state"], "nothing is left behind"
    keeper = StateKeeper(StateFile(path), CatchUp(60.0))
    keeper.load()
    assert keeper.state == on_disk(path)


async def test_a_disk_that_refuses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    file = RefusingFile(tmp_path / "state")
    async with running(StateKeeper(file, CatchUp(60.0))) as keeper:
        for _ in range(2):
            keeper.keep_order("node1", DRAINED)
            says = await keeper.settle()
            assert says == f"this holds, and is forgotten if the proxy ends: {file.path}: No space left on device"
        file.full = False
        keeper.keep_pin("juliet@example.org", "node1")
        assert await keeper.settle() is None
        assert on_disk(file.path).orders == {"node1": DRAINED}, "nothing is lost when there is room again"
    events = [record.getMessage().split()[0] for record in caplog.records]
    assert [each for each in events if each.startswith("state-")] == ["state-not-kept", "state-kept-again"]


async def test_there_is_no_thread_to_write_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order is answered all the same."""

    async def run_sync(*_: object) -> NoReturn:
        raise RuntimeError("can't start new thread")

    async with running(StateKeeper(StateFile(tmp_path / "state"), CatchUp(60.0))) as keeper:
        with monkeypatch.context() as without_threads:
            without_threads.setattr(trio.to_thread, "run_sync", run_sync)
            keeper.keep_order("node1", DRAINED)
            assert "can't start new thread" in (await keeper.settle() or "")
        keeper.keep_pin("juliet@example.org", "node1")
        assert await keeper.settle() is None


async def test_it_is_tried_again(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    file = RefusingFile(tmp_path / "state")
    async with running(StateKeeper(file, CatchUp(60.0))) as keeper:
        keeper.keep_order("node1", DRAINED)
        assert await keeper.settle() is not None
        file.full = False
        while await keeper.settle() is not None:  # noqa: ASYNC110 - a thread writes it
            await trio.sleep(1)
        assert on_disk(file.path).orders == {"node1": DRAINED}


async def test_what_was_learned_is_written_later_and_at_the_end(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path, known = tmp_path / "state", Known({"urn:a": True})
    async with running(StateKeeper(StateFile(path), known, wall_clock=lambda: 1e9)) as keeper:
        keeper.learned()
        await trio.sleep(50)
        assert not path.exists()
        while not path.exists():  # noqa: ASYNC110 - a thread writes it
            await trio.sleep(1)
        assert on_disk(path).software_known(1e9) == {"urn:a": True}
        known.known["urn:b"] = False
        keeper.learned()
        await trio.sleep(1)
    await keeper.flush()
    assert on_disk(path).software_known(1e9) == {"urn:a": True, "urn:b": False}
    later = Known({})
    StateKeeper(StateFile(path), later, wall_clock=lambda: 1e9).load()
    assert later.known == {"urn:a": True, "urn:b": False}


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (b"{}", 0o600, "expected a state file"),
        (KeptState().encode(), 0o660, "other users can write it"),
        (KeptState().encode(), 0o602, "other users can write it"),
    ],
)
async def test_a_file_that_is_not_taken(content: bytes, mode: int, says: str, tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        StateKeeper(StateFile(path), CatchUp(60.0)).load()
    assert str(caught.value).startswith(f"{path}: {says}")
    assert "Moved away, it is made anew" in str(caught.value)


async def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="directory"):
        StateKeeper(StateFile(tmp_path), CatchUp(60.0)).load()
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(ConfigError, match="It is a FIFO"):
        StateKeeper(StateFile(tmp_path / "fifo"), CatchUp(60.0)).load()
    with pytest.raises(ConfigError, match=f"state {tmp_path}/a/state: {tmp_path}/a: expected a directory"):
        StateFile(tmp_path / "a" / "state").read()
    StateFile(tmp_path / "a" / "state", makes_directory=True).read()
    keeper = StateKeeper(StateFile(tmp_path / "none"), CatchUp(60.0))
    keeper.load()
    assert keeper.state == KeptState()


def test_what_is_written_is_json_that_people_can_read(tmp_path: Path) -> None:
    assert read_state(b'{"format": "cxfr-proxy state", "version": 1}') == KeptState()


def test_two_proxies_can_not_keep_one_file(tmp_path: Path) -> None:
    """The error names the file, and who has it."""
    path = tmp_path / "state"
    first, second, third = (StateKeeper(StateFile(path), CatchUp(60.0)) for _ in range(3))
    first.lock()
    with pytest.raises(
        ConfigError, match=rf"state {path}: another proxy \(pid {os.getpid()}\) keeps its state in this"
    ):
        second.lock()
    assert first.lock_descriptor is not None
    third.lock(os.dup(first.lock_descriptor))  # the one that takes the place of the first
    first.unlock()
    with pytest.raises(ConfigError, match="another proxy"):
        second.lock()
    third.unlock()
    second.lock()
    second.unlock()


async def test_what_a_proxy_writes_as_it_ends_holds_in_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may still have the lock when the next one has read the file already."""
    before = KeptState(orders={"node1": DRAINED}, pins={"romeo@example.org": "node1"}, roll=RollRecord(("node1",)))
    at_its_end = KeptState(orders={"node2": DRAINED}, pins={"juliet@example.org": "node1"})
    lock = StateFile.lock

    def other_ends(file: StateFile, inherited: int | None) -> FileLock | None:
        file.write(at_its_end.encode())
        return lock(file, inherited)

    monkeypatch.setattr(StateFile, "lock", other_ends)
    StateFile(tmp_path / "c.sock.state").write(before.encode())
    async with house(tmp_path) as it:
        console = it.supervisor.console
        assert [row.admin_state for row in await console.nodes.known_rows()] == ["ready", "drain"]
        assert list(it.supervisor._drainer.drains) == ["node2"]
        assert it.supervisor._assigned.pins.nodes == {"juliet@example.org": "node1"}
        assert console.rolls.rows() == []
        assert it.supervisor._kept.state == at_its_end


def test_a_lock_of_another_file_is_no_lock(tmp_path: Path) -> None:
    """The settings may name another file by the time of an upgrade."""
    before, after, other = (StateKeeper(StateFile(tmp_path / name), CatchUp(60.0)) for name in ("old", "new", "new"))
    before.lock()
    assert before.lock_descriptor is not None
    after.lock(os.dup(before.lock_descriptor))
    with pytest.raises(ConfigError, match="another proxy"):
        other.lock()
    before.unlock()
    after.unlock()


def test_a_disk_that_refuses_the_lock_is_no_outage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keeper = StateKeeper(StateFile(tmp_path / "nowhere" / "state"), CatchUp(60.0))
    keeper.lock()
    assert keeper.lock_descriptor is None
    assert [record.msg for record in caplog.records] == ["state-not-locked"]
    keeper.unlock()
