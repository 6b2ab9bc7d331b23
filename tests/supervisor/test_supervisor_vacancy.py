"""That nobody could log in is said, whatever took the last node. Time is trio's mock clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import AdminState, Health
from cxfr_proxy.cluster.nodes_file import parse_nodes
from cxfr_proxy.events import TextFormatter
from cxfr_proxy.supervisor.vacancy import Vacancy


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged since the last time, without times."""
    lines = [TextFormatter().format(record).partition(" ")[2] for record in caplog.records]
    caplog.clear()
    return lines


def down(cluster: Cluster) -> None:
    cluster.get("a").health = Health.DOWN


def drained(cluster: Cluster) -> None:
    cluster.get("a").set_admin_state(AdminState.DRAIN)


def removed(cluster: Cluster) -> None:
    cluster.apply(parse_nodes("b h state=maint", "nodes.txt"))


@pytest.mark.parametrize("goes", [down, drained, removed])
async def test_the_last_one_goes_and_another_comes(
    goes: Callable[[Cluster], None], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    cluster = Cluster(parse_nodes("a h\nb h state=maint", "nodes.txt"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Vacancy(cluster, ()).run)
        await trio.sleep(1)
        assert not said(caplog)
        goes(cluster)
        await trio.sleep(100)
        assert said(caplog) == ['ERROR no-node reason="no node is ready and up: logins are refused"']
        cluster.get("b").set_admin_state(AdminState.READY)
        await trio.sleep(100)
        assert said(caplog) == ["INFO node-again"]
        nursery.cancel_scope.cancel()


async def test_each_domain_is_told_of(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    cluster = Cluster(parse_nodes("a h domain=x.test\nb h domain=y.test", "nodes.txt"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Vacancy(cluster, ("X.test", "y.test", "z.test")).run)
        await trio.sleep(1)
        assert [line.partition(" reason")[0] for line in said(caplog)] == ["ERROR no-node domain=z.test"]
        down(cluster)
        await trio.sleep(1)
        assert [line.partition(" reason")[0] for line in said(caplog)] == ["ERROR no-node domain=x.test"]
        nursery.cancel_scope.cancel()
