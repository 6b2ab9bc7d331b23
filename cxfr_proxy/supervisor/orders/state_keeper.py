"""Keep what has to outlive this process, in a small file: orders, pins, a roll, and what was learned of software.

An order is written at once, and answered when it is on disk: a node under maintenance stays so whatever happens to the
proxy then. Lessons about software are written some time later, many together. A disk that refuses changes nothing about
what holds now, since an operator has to be able to drain a node while it is full; the answer says so, and the log.

Disks can be slow, so the file is written in a thread.
"""

from __future__ import annotations

import logging
import math
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol, TypeVar

import trio

from cxfr_proxy import shortage
from cxfr_proxy.cluster.kept_state import MAX_STATE_BYTES, KeptState, read_state
from cxfr_proxy.cluster.roll import RollRecord
from cxfr_proxy.cluster.shared import Directive
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.file_lock import FileLock, FileLocked
from cxfr_proxy.files import read_file, replace_file

LEARNED_SECONDS: Final = 60.0
"""Seconds until what was learned is written: a proxy that is killed meanwhile learns it again."""
_RETRY_SECONDS: Final = 10.0
"""Seconds between two attempts while the disk refuses."""

_log = logging.getLogger(__name__)

_V = TypeVar("_V")


class StateFile:
    """The file. Only this user can write it, and only root or this user may own it: its orders are carried out.
    ``makes_directory``: its directory is made later, with the control socket."""

    def __init__(self, path: Path, *, makes_directory: bool = False) -> None:
        self.path = path
        self._makes_directory = makes_directory

    def read(self) -> KeptState:
        """Return what is kept; nothing, where there is no file.

        Raises :class:`ConfigError` for a file that can't be read, is none of this program's, or could not be written.
        """
        if not self._makes_directory:
            self._check_directory()
        try:
            status = os.stat(self.path)
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise ConfigError("other users can write it")
            return read_state(read_file(self.path, max_bytes=MAX_STATE_BYTES))
        except FileNotFoundError:
            return KeptState()
        except OSError as exc:
            raise self._wrong(exc.strerror or str(exc)) from exc
        except ConfigError as exc:
            raise self._wrong(exc.message) from exc

    def _check_directory(self) -> None:
        directory = self.path.parent
        if not os.access(directory, os.W_OK | os.X_OK):
            why = "can't be written in" if directory.is_dir() else "expected a directory"
            raise ConfigError(f"state {self.path}: {directory}: {why}")

    def _wrong(self, reason: str) -> ConfigError:
        return ConfigError(
            f"{reason}. Moved away, it is made anew: drains, pins and a roll that it keeps are forgotten then",
            file=str(self.path),
        )

    def lock(self, inherited: int | None) -> FileLock | None:
        """Lock it for this proxy, or have the lock that was ``inherited``, as a descriptor. Return ``None``, and log
        why, where the disk refuses.

        Raises :class:`ConfigError` where another proxy has it.
        """
        name = f"{self.path}.lock"
        lock = FileLock.inherited(inherited, name) if inherited is not None else None
        if lock is not None:
            return lock
        try:
            lock = FileLock.take(name)
        except FileLocked as exc:
            whose = f"another proxy (pid {exc.pid})" if exc.pid is not None else "another proxy"
            raise ConfigError(
                f"state {self.path}: {whose} keeps its state in this file (give this one its own: --state PATH)"
            ) from exc
        except OSError as exc:
            # A full disk is no reason not to serve.
            emit(_log, "state-not-locked", level=logging.WARNING, path=name, reason=exc.strerror or str(exc))
            return None
        lock.note_owner()
        return lock

    def write(self, content: bytes) -> None:
        """Have it hold this. Raises :class:`OSError`, and then it is as it was."""
        replace_file(self.path, content)


class KnownSoftware(Protocol):
    """Knows client programs."""

    def software_known(self) -> Mapping[str, bool]:
        """Return by capabilities whether they know the request, what was learned last at the end."""

    def software_was_known(self, known: Mapping[str, bool]) -> None:
        """Take over what was known at an earlier time."""


class StateKeeper:
    """Keeps it in ``file``. ``software`` knows client programs; ``wall_clock`` goes on while no proxy runs."""

    def __init__(self, file: StateFile, software: KnownSoftware, wall_clock: Callable[[], float] = time.time) -> None:
        self.path = file.path
        self.state = KeptState()
        self._loaded = self.state.encode()
        self._file = file
        self._software = software
        self._wall_clock = wall_clock
        # Changes so far, those there were at the last attempt, and at the last success.
        self._changed = self._tried = self._written = 0
        self._work = trio.Event()
        self._learned_at: float | None = None  # what was learned then is not written yet
        self._attempts = trio.lowlevel.ParkingLot()
        self._problem: str | None = None
        self._offered: trio.Event | None = None
        """Whether the state is offered to another process; set where it was taken back."""
        self._given_away = False
        self._writing = False
        self._lock: FileLock | None = None

    def load(self) -> None:
        """Take up what was kept. Blocks for a moment. Raises :class:`ConfigError`."""
        self.state = self._file.read()
        self._loaded = self.state.encode()  # the state itself changes from here on
        self._software.software_was_known(self.state.software_known(self._wall_clock()))

    def load_again(self) -> KeptState | None:
        """Take up what another proxy has written since :meth:`load`. Return what was kept before; ``None``: nothing has
        changed. Blocks and raises as that does."""
        before, loaded = self.state, self._loaded
        if self._file.read().encode() == loaded:
            return None
        self.load()
        return before

    def check(self) -> None:
        """Raise :class:`ConfigError` where :meth:`load` would."""
        self._file.read()

    def lock(self, inherited: int | None = None) -> None:
        """Have the file alone; ``inherited`` is a descriptor with the lock of a proxy whose place this one takes. Its
        directory has to be there by now. Raises :class:`ConfigError` where another proxy has it."""
        self._lock = self._file.lock(inherited)

    @property
    def lock_descriptor(self) -> int | None:
        """The descriptor with the lock; ``None``: it could not be locked."""
        return self._lock.descriptor if self._lock is not None else None

    def unlock(self) -> None:
        """Leave the file to others, if it was locked."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def take_over(self, state: KeptState) -> None:
        """Take up what another proxy has kept, which does so no more: all of it is written."""
        if self._lock is not None:
            self._lock.note_owner()
        self.state = state
        self._software.software_was_known(state.software_known(self._wall_clock()))
        self._has_changed()

    def offer(self) -> bytes:
        """Write nothing until :meth:`take_back`. Return the state as it is written, for another process."""
        self._offered = trio.Event()
        return self.content()

    def take_back(self) -> None:
        """Write again, if it was offered: all of it, since the other process may have written some."""
        if self._offered is not None:
            self._offered.set()
            self._offered = None
            if self._lock is not None:
                self._lock.note_owner()
            self._has_changed()

    def give_away(self) -> None:
        """Write nothing any more: another process does. It has the lock alone, so that a third one can begin should it
        end before this one."""
        self._given_away = True
        self.unlock()

    def content(self) -> bytes:
        """Return the state as it is written."""
        self.state.learn(self._software.software_known(), self._wall_clock())
        return self.state.encode()

    # --- what is kept

    def keep_order(self, node: str, order: Directive | None) -> None:
        """Keep what the operator wants of that node; ``None``: nothing but what the list says."""
        if self.state.orders.get(node) != order:
            _put(self.state.orders, node, order)
            self._has_changed()

    def keep_pin(self, user: str, node: str | None) -> None:
        """Keep a user's pin, by the user's key; ``None``: there is none any more."""
        if self.state.pins.get(user) != node:
            _put(self.state.pins, user, node)
            self._has_changed()

    def keep_roll(self, record: RollRecord | None) -> None:
        """Keep how far a roll is; ``None``: none goes on."""
        if self.state.roll != record:
            self.state.roll = record
            self._has_changed()

    def learned(self) -> None:
        """Have written, some time later, what was learned of software."""
        if self._learned_at is None:
            self._learned_at = trio.current_time()
            self._work.set()

    def _has_changed(self) -> None:
        self._changed += 1
        self._work.set()

    # --- the file

    async def run(self) -> None:
        """Write what changes, until cancelled."""
        while True:
            await self._until_due()
            while self._offered is not None:
                await self._offered.wait()
            await self._write()
            if self._problem is not None:
                with trio.move_on_after(_RETRY_SECONDS):
                    await self._next_change()

    async def _until_due(self) -> None:
        while self._changed == self._written:
            due = self._learned_at + LEARNED_SECONDS if self._learned_at is not None else math.inf
            if trio.current_time() >= due:
                return
            with trio.move_on_at(due):
                await self._next_change()

    async def _next_change(self) -> None:
        await self._work.wait()
        self._work = trio.Event()

    async def settle(self) -> str | None:
        """Wait until all there is to keep is on disk, or could not be written. Return ``None``, or why it is not, in a
        sentence."""
        wanted = self._changed
        await trio.lowlevel.checkpoint()
        while self._tried < wanted:
            await self._attempts.park()
        if self._written >= wanted:
            return None
        return f"this holds, and is forgotten if the proxy ends: {self._problem}"

    async def quiet(self) -> None:
        """Wait until nothing is being written: a thread that is slow would replace what another process writes."""
        while self._writing:
            await self._attempts.park()

    async def flush(self) -> None:
        """Write at once what is not written yet, and what was learned. :meth:`run` must not run any more."""
        if self._learned_at is not None or self._written < self._changed:
            await self._write()

    async def _write(self) -> None:
        changed, learned_at, self._learned_at = self._changed, self._learned_at, None
        if self._given_away:
            return
        self._writing = True
        try:
            with shortage.of_threads():
                await trio.to_thread.run_sync(self._file.write, self.content())
        except OSError as exc:
            self._learned_at = learned_at
            self._note_problem(f"{self.path}: {exc.strerror or exc}")
        else:
            self._written = changed
            self._note_problem(None)
        finally:
            self._writing = False
            self._attempts.unpark_all()
        self._tried = changed

    def _note_problem(self, problem: str | None) -> None:
        if problem is not None and problem != self._problem:
            emit(_log, "state-not-kept", level=logging.ERROR, reason=problem)
        elif problem is None and self._problem is not None:
            emit(_log, "state-kept-again", path=str(self.path))
        self._problem = problem


def _put(kept: dict[str, _V], key: str, value: _V | None) -> None:
    if value is None:
        kept.pop(key, None)
    else:
        kept[key] = value
