"""Clients that talk, and others that come and go, while the proxy or its workers are replaced; the sums afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Final

import trio
from e2e_proxy import DOMAIN, connect, until
from e2e_workers import World

from cxfr_proxy.demo.account import MessageCounts, judge
from cxfr_proxy.demo.client import DemoClient
from cxfr_proxy.demo.habits import ClientKind, ClientLogin, Security, Traffic

PATIENT: Final = ("--see-other-host-timeout", "30s", "--node-close-timeout", "30s", "--hard-stop-after", "2m")
"""A party that answers in the end, on however busy a machine, is waited for. One that is not may get, or send, a second
time what it had not acknowledged."""


async def talkative(it: World, kinds: Iterable[ClientKind]) -> list[DemoClient]:
    """A client of each kind, bound, that says something numbered twenty times a second."""
    clients = [
        DemoClient(
            f"talker{number}@{DOMAIN}",
            kind,
            it.proxy.address,
            rng=random.Random(number),
            login=ClientLogin(security=list(Security)[1 + number % 2], tls=it.certificate.client_context()),
            back_off_seconds=0.05,
            traffic=Traffic(0.05),
        )
        for number, kind in enumerate(kinds)
    ]
    async with trio.open_nursery() as starting:
        for client in clients:
            starting.start_soon(it.nursery.start, client.run)
    return clients


def unanswered(client: DemoClient, it: World) -> str:
    """Say what a client waits for, and which of it the nodes have taken in."""
    account = client.account
    missing = account.in_flight | account.due_again
    taken_in = {
        (record.key, each.number)
        for record in it.nodes[0].cluster.records
        for each in record.received
        if each.origin == account.origin and each.number in missing
    }
    moves = [(move.rung.value, move.resumed) for move in client.moves]
    return f"{client.kind} {client.full_jid}: {sorted(missing)}, taken in: {sorted(taken_in)}; its moves: {moves}"


async def balance(it: World, clients: list[DemoClient]) -> MessageCounts:
    """Stop the traffic, wait for what is under way, and do the sums."""
    for client in clients:
        client.quiet()
    try:
        await until(lambda: all(client.account.settled for client in clients))
    except AssertionError:
        left = [unanswered(client, it) for client in clients if not client.account.settled]
        raise AssertionError(f"not answered: {left}") from None
    records = it.nodes[0].cluster.records
    return sum((judge(client.account, records) for client in clients), MessageCounts())


async def come_and_go(it: World, came: list[str]) -> None:
    """Log in, see that it works, leave, and again; a connection that is refused or reset fails the test."""
    while True:
        raw = await connect(it.proxy.address, it.certificate.client_context())
        came.append(await raw.log_in(f"comer{len(came)}"))
        await raw.close()
        await trio.sleep(0.02)  # a stream of comers, not a flood: the new workers need a core to start on
