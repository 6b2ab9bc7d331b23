"""Names are looked up in threads of their own number."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
import trio
from waiting import until

from cxfr_proxy.net.names import MOST_LOOKUPS, look_up_apart


async def test_lookups_without_answers_take_nobody_s_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even those that were given up, which go on."""
    answers, asked = threading.Event(), []

    def getaddrinfo(host: object, port: int, family: int, kind: int, proto: int, flags: int) -> Any:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "it is a name")
        asked.append(host)
        answers.wait(60)
        return [(socket.AF_INET, kind, proto, "", ("192.0.2.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    look_up_apart()
    for number in range(MOST_LOOKUPS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.socket.getaddrinfo, "n.example", 5222)
            await until(lambda expected=number + 1: len(asked) == expected)  # type: ignore[misc]
            nursery.cancel_scope.cancel()
    assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
    with trio.move_on_after(0.05) as waiting:
        await trio.socket.getaddrinfo("n.example", 5222)
    assert waiting.cancelled_caught
    assert len(asked) == MOST_LOOKUPS, "it waits for its turn"
    answers.set()
    ((*_, address),) = await trio.socket.getaddrinfo("n.example", 5222)
    assert address == ("192.0.2.1", 5222)
