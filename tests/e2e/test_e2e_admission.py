"""Logins reach a node at the rate that was set, however many come at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio
from e2e_proxy import HEADER, Raw, connect, in_process, nodes_file, running, until

from cxfr_proxy.cluster.backends import FileBackends
from cxfr_proxy.config.table import Config, Route, StartTls, Timeouts
from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.xmpp import names


def limited(directory: Path, node: DemoNode, route: Route, *, rate: float, patience: float) -> Config:
    return Config(
        starttls=StartTls.OFF,
        domain=("localhost",),
        route=route,
        workers=1,
        backends=FileBackends(str(nodes_file(directory, [node], a="inter=1h"))),
        control=directory / "c.sock",
        logins_per_second=rate,
        timeouts=Timeouts(admission_timeout=patience),
    )


@pytest.mark.parametrize("route", Route)
async def test_a_burst_of_logins_reaches_the_node_at_its_rate(tmp_path: Path, route: Route) -> None:
    node = DemoNode("a")
    async with running(node):
        config = limited(tmp_path, node, route, rate=20.0, patience=60.0)
        async with in_process(config) as (_, address):
            bound: list[float] = []

            async def client(number: int) -> None:
                raw = await connect(address)
                await raw.log_in(f"user{number}")
                bound.append(time.monotonic())

            began = time.monotonic()
            async with trio.open_nursery() as clients:
                for number in range(30):
                    clients.start_soon(client, number)
            # Two at once, then one every 50 ms. The machine may be slow, and the proxy must never be fast.
            for index, at in enumerate(sorted(bound)):
                assert at - began >= (index - 2) / 20.0


@pytest.mark.parametrize("route", Route)
async def test_who_can_t_be_served_in_time_is_told_and_who_left_is_not_waited_for(tmp_path: Path, route: Route) -> None:
    node = DemoNode("a")
    async with running(node):
        config = limited(tmp_path, node, route, rate=0.001, patience=600.0)
        async with in_process(config) as (proxy, address):

            async def queued(count: int) -> None:
                await until(lambda: proxy.registry.counts.of_node("a").logins_waiting == count)

            # Until it was checked its features are not known, and it is connect all the same.
            while not str((await proxy.console.nodes.rows())[0].check).startswith("ok"):  # noqa: ASYNC110 - no event
                await trio.sleep(0.01)
            first = await connect(address)
            await first.log_in("first")
            leaving = await connect(address)
            second, third = await connect(address), await connect(address)
            for count, raw in enumerate((leaving, second), 1):
                await _ask_for_the_node(raw, route)
                await queued(count)
            await proxy.console.settings.set("admission-timeout", ["100ms"])
            await _ask_for_the_node(third, route)
            assert await third.error() == "resource-constraint"
            leaving.abandon()
            before = node.accepted
            await proxy.console.settings.set("logins-per-second", ["100"])
            assert await _has_heard_of_it(second, route)
            await until(lambda: len(proxy.registry) == 2)
            assert node.accepted == before + 1, "the node never hears of who has left"


async def _ask_for_the_node(raw: Raw, route: Route) -> None:
    """The stream's header does, or the login behind features that are the proxy's."""
    if route is Route.CONNECT:
        await raw.send(HEADER)
    else:
        await raw.open()
        await raw.send(f"<auth xmlns='{names.SASL}' mechanism='PLAIN'>AHUAcA==</auth>")


async def _has_heard_of_it(raw: Raw, route: Route) -> bool:
    if route is Route.CONNECT:
        await raw.read()
        return "features" in await raw.xml()
    return "success" in await raw.xml()
