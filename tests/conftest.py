"""Which engines the tests run with.

``CXFR_ENGINE=python pytest`` runs all of them with those that need no compiler. Modules marked with
``usefixtures("engines")`` run twice at once: with the engines in C and a worker a core, as operators do, and with those
in Python and in one process.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import settings

from cxfr_proxy.relay import engine
from cxfr_proxy.xmpp.framing import framer

engine.use_from_environment()

# How long an example takes says more about what else the machine does than about the code. And the same examples each
# time: a change is not to be held up by what was there before it. ``--hypothesis-profile new`` looks for new ones.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("new", deadline=None)
settings.load_profile("same")

# A shell makes what it starts in the background ignore it, and commands that tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


_LONGEST: Final = ("fuzz", "e2e", "test_real_matrix.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest. Processes that run tests at once take files in this order (see Makefile),
    and all would wait for one that had begun a long one last."""

    def rank(item: pytest.Item) -> int:
        names = (item.path.parent.name, item.path.name)
        return next((place for place, name in enumerate(_LONGEST) if name in names), len(_LONGEST))

    items.sort(key=rank)


class _Collections:
    """Says by the exit code that tests were not collected. pytest-xdist ends as if tests had failed, though it runs
    none at all where its processes have not collected the same; and what is run again then (see Makefile) is only what
    is known to have failed."""

    def __init__(self) -> None:
        self._failed = False

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._failed = self._failed or report.failed

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._failed and session.exitstatus == pytest.ExitCode.TESTS_FAILED:
            session.exitstatus = pytest.ExitCode.INTERRUPTED


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # a process of xdist's would seem to be interrupted
        config.pluginmanager.register(_Collections())


@pytest.fixture(params=["native", "python"])
def engines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The engine that this process and the commands that it starts use."""
    wanted: str = request.param
    if wanted not in engine.ENGINE.names:
        reason = "the engines in C were not compiled"
        if os.environ.get("CXFR_REQUIRE_REAL"):
            pytest.fail(reason)
        pytest.skip(reason)
    before = engine.ENGINE.chosen, framer.ENGINE.chosen
    monkeypatch.setenv("CXFR_ENGINE", wanted)
    engine.use_from_environment()
    yield wanted
    engine.ENGINE.use(before[0])
    framer.ENGINE.use(before[1])
