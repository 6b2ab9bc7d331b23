"""Logins reach a node at the rate that was set, however many come at once."""

from __future__ import annotations

import time
from pathlib import Path

import trio
from e2e_proxy import HEADER, Raw, connect, in_process, nodes_file, running, until

from cxfr_proxy.config import Config, StartTls, Timeouts
from cxfr_proxy.demo.node import DemoNode


def limited(directory: Path, node: DemoNode, *, rate: float, patience: float) -> Config:
    return Config(
        starttls=StartTls.OFF,
        workers=1,
        backends=nodes_file(directory, [node]),
        control=directory / "c.sock",
        logins_per_second=rate,
        timeouts=Timeouts(admission_timeout=patience),
    )


async def test_a_burst_of_logins_reaches_the_node_at_its_rate(tmp_path: Path) -> None:
    node = DemoNode("a")
    async with running(node):
        config = limited(tmp_path, node, rate=20.0, patience=60.0)
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


async def test_who_can_t_be_served_in_time_is_told_and_who_left_is_not_waited_for(tmp_path: Path) -> None:
    node = DemoNode("a")
    async with running(node):
        config = limited(tmp_path, node, rate=0.5, patience=3.0)
        async with in_process(config) as (proxy, address):

            async def queued(count: int) -> None:
                await until(lambda: proxy.registry.of_node("a").expected == count)

            first = await connect(address)
            await first.log_in("first")
            leaving = await connect(address)
            second, third = await connect(address), await connect(address)
            for count, raw in enumerate((leaving, second, third), 1):
                await raw.send(HEADER)
                await queued(count)
            leaving.abandon()
            # After two seconds it is the turn of who has left, so the second one's instead; the third's comes too late.
            assert "features" in await _opened(second)
            assert await third.error() == "resource-constraint"
            await until(lambda: len(proxy.registry) == 2)


async def _opened(raw: Raw) -> str:
    await raw.read()
    return await raw.xml()
