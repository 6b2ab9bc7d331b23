"""What is done for operators takes its share of the time, and no more."""

from __future__ import annotations

import time

import pytest
import trio
from trio.testing import MockClock

from cxfr_proxy.worker.time_share import TimeShare


async def test_however_many_ask_it_is_the_same_share(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked = 0.0
    monkeypatch.setattr(time, "thread_time", lambda: worked)
    share = TimeShare(0.25)

    async def list_many(pieces: int) -> None:
        nonlocal worked
        for _ in range(pieces):
            with share.charged():
                worked += 0.001
            await share.wait()

    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(list_many, 50)
    assert worked == pytest.approx(0.8)
    assert trio.current_time() == pytest.approx(3.2)
    await trio.sleep(60)
    began = trio.current_time()
    await list_many(1)
    assert trio.current_time() - began == pytest.approx(0.004), "what was not used before is gone"
