"""A lock that one program has, and that can be handed over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cxfr_proxy.file_lock import FileLock, FileLocked


def test_at_most_one_has_it(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    lock = FileLock.take(path)
    with pytest.raises(FileLocked) as nameless:
        FileLock.take(path)
    assert nameless.value.pid is None
    lock.note_owner()
    with pytest.raises(FileLocked) as named:
        FileLock.take(path)
    assert named.value.pid == os.getpid()
    lock.close()
    FileLock.take(path).close()


def test_it_is_there_until_the_last_one_gives_it_up(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    first = FileLock.take(path)
    second = FileLock.inherited(os.dup(first.descriptor), path)
    assert second is not None
    first.close()
    with pytest.raises(FileLocked):
        FileLock.take(path)
    second.close()
    FileLock.take(path).close()


def test_what_is_no_lock_of_that_file(tmp_path: Path) -> None:
    other = os.open(tmp_path / "other", os.O_CREAT | os.O_RDWR)
    assert FileLock.inherited(other, str(tmp_path / "lock")) is None
    FileLock.take(str(tmp_path / "lock")).close()
    assert FileLock.inherited(other, str(tmp_path / "lock")) is None, "it was closed"


@pytest.mark.parametrize("content", ["", "nobody", "9" * 40])
def test_a_file_that_names_nobody(content: str, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text(content)
    lock = FileLock.take(str(path))
    with pytest.raises(FileLocked) as locked:
        FileLock.take(str(path))
    assert locked.value.pid is None or content
    lock.close()


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        FileLock.take(str(tmp_path / "lock"))
    assert not (tmp_path / "elsewhere").exists()
