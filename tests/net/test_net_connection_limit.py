"""How many sessions fit into a process's descriptors."""

from __future__ import annotations

import os

import pytest

from cxfr_proxy.net import connection_limit
from cxfr_proxy.net.connection_limit import open_descriptors, sessions_that_fit


def test_open_descriptors_are_counted() -> None:
    before = open_descriptors()
    ends = os.pipe()
    far = os.dup2(ends[0], ends[1] + 900)  # behind a gap, as what a program was started with may lie
    assert open_descriptors() == before + 3
    for fd in (*ends, far):
        os.close(fd)
    assert open_descriptors() == before


def test_they_are_counted_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chroot may have none."""
    monkeypatch.setattr(os, "listdir", None)
    monkeypatch.setattr(os, "scandir", None)
    assert open_descriptors() >= 3


@pytest.mark.parametrize(("limit", "sessions"), [(1024, 443), (140, 1), (100, 1)])
def test_sessions_that_fit(limit: int, sessions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limit, "open_descriptors", lambda: 10)
    assert sessions_that_fit(limit) == sessions
