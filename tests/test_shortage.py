"""What this machine lacks is told from what is wrong with a file."""

from __future__ import annotations

import errno
from typing import NoReturn

import pytest
import trio

from cxfr_proxy import shortage
from cxfr_proxy.errors import ConfigError, FileFaults
from cxfr_proxy.net.connection_limit import open_descriptors
from cxfr_proxy.worker.launch import WorkerProcesses

NO_THREAD = "can't start new thread"


def fault(number: int | None) -> ConfigError:
    try:
        raise ConfigError("cannot be read") from OSError(number, "") if number is not None else None
    except ConfigError as exc:
        return exc


@pytest.mark.parametrize(
    ("numbers", "passes"),
    [
        ([errno.EMFILE], True),
        ([errno.ENOMEM], True),
        ([errno.EAGAIN], True),
        ([errno.ENOENT], False),
        ([errno.EADDRNOTAVAIL], False),
        ([None], False),
        ([errno.ENOENT, errno.ENFILE], True),
    ],
)
def test_faults_that_pass(numbers: list[int | None], passes: bool) -> None:
    assert shortage.passes(FileFaults(map(fault, numbers))) is passes
    assert shortage.passes(fault(numbers[0])) is (passes and len(numbers) == 1)


def test_threads_are_lacking_as_the_system_says_it() -> None:
    with pytest.raises(OSError, match=NO_THREAD) as caught, shortage.of_threads():
        raise RuntimeError(NO_THREAD)
    assert caught.value.errno == errno.EAGAIN
    with pytest.raises(RuntimeError, match="defect"), shortage.of_threads():
        raise RuntimeError("defect")


async def test_a_worker_without_a_thread_to_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_sync(*_: object, **__: object) -> NoReturn:
        raise RuntimeError(NO_THREAD)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    before = open_descriptors()
    with pytest.raises(OSError, match=NO_THREAD):
        await WorkerProcesses().launch([])
    assert open_descriptors() == before
