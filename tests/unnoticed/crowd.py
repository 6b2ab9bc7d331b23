"""Clients in pairs, over plain TCP: each writes numbered messages to the other one, and both are here, so every message
is counted where it arrives. Started by :mod:`unnoticed.run`, as ``python -m unnoticed.crowd FILE``.

The file has the clients (:class:`Cast`). Orders are lines of JSON on stdin, each answered by a line of counts when it
is done (:meth:`Crowd.obey`). A client whose stream ends has *noticed*; it comes back, and resumes its session if it
can.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import heapq
import json
import os
import random
import re
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Final

import msgspec
from real.programs import DOMAIN, HOST, PASSWORD

from bench import machine

RESOURCE: Final = "r"
WATCHER: Final = "watcher"
PATIENCE_SECONDS: Final = 15.0
"""When nothing has come for so long, what is missing is not waited for any more."""
_BACK_SECONDS: Final = 1.0
"""Most seconds after which a client comes back whose stream has ended."""
_HEADER: Final = (
    "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
    f"to='{DOMAIN}' version='1.0'>"
).encode()
_SM: Final = "urn:xmpp:sm:3"
_R: Final = f"<r xmlns='{_SM}'/>".encode()
_BIND: Final = (
    f"<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>{RESOURCE}</resource></bind></iq>"
).encode()
_TAG: Final = re.compile(rb"<(/?[a-z:]+)([^>]*?)(/?)>")
_H: Final = re.compile(rb"\bh=['\"](\d+)['\"]")
_ID: Final = re.compile(rb"\bid=['\"]([^'\"]*)['\"]")
_CONDITION: Final = re.compile(rb"<error[^>]*><([^ />]+)")
_BODY: Final = re.compile(rb"<body>(\d+)</body>")
_STANZAS: Final = frozenset((b"message", b"presence", b"iq"))
_NO_END: Final = frozenset((b"stream:stream", b"/stream:stream"))


class Cast(msgspec.Struct):
    """``port`` is the proxy's. The second of each pair is the first one's partner. ``counting``: the share of pairs
    with XEP-0198. ``watcher_port``: where the watcher logs in, on a node itself; ``None``: it is in another process."""

    port: int
    pairs: list[tuple[str, str]]
    counting: float
    watcher_port: int | None = None


class Counts(msgspec.Struct):
    """Since the last report, but for ``bound``, ``lost`` and ``presences``, which are as of now.

    ``noticed`` are streams that ended, ``resumed`` those that were resumed afterwards. ``acks``, ``arrivals``: seconds
    until the server had acknowledged a message, and until the partner had it. ``presences``: all that the watcher has
    got so far. ``bounces``: when, whose and to whom, and why.
    """

    bound: int = 0
    sent: int = 0
    arrived: int = 0
    twice: int = 0
    disordered: int = 0
    bounced: int = 0
    lost: int = 0
    noticed: int = 0
    resumed: int = 0
    presences: int = 0
    acks: list[float] = []
    arrivals: list[float] = []
    bounces: list[str] = []

    def __add__(self, other: Counts) -> Counts:
        """Of both."""
        return Counts(*(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__))


class Stage(IntEnum):
    AWAY = 0
    SASL = 1
    SUCCESS = 2
    FEATURES = 3
    BIND = 4
    """Or to be resumed."""
    BOUND = 5


class Client:
    """One user, on one connection after the other."""

    __slots__ = (
        "acked",
        "counting",
        "handled",
        "highest",
        "jid",
        "missing",
        "partner",
        "port",
        "rest",
        "sent",
        "sent_at",
        "sm_id",
        "sock",
        "stage",
        "unacked",
        "user",
    )

    def __init__(self, user: str, port: int, *, counting: bool) -> None:
        self.user = user
        self.jid = f"{user}@{DOMAIN}/{RESOURCE}"
        self.port = port
        self.counting = counting
        self.partner: Client | None = None
        self.sock: socket.socket
        self.rest = b""
        self.stage = Stage.AWAY
        self.sent = 0  # the number of its last message
        self.sent_at: dict[int, float] = {}
        self.highest = 0  # of its partner's messages, that came
        self.missing: set[int] = set()  # of lower ones
        self.sm_id: bytes | None = None
        self.handled = 0  # of the server's stanzas
        self.acked = 0  # of its own, by the server
        self.unacked: deque[tuple[bytes, float]] = deque()

    def lost(self) -> int:
        """Return how many of its partner's messages have not come."""
        return (self.partner.sent - self.highest if self.partner is not None else 0) + len(self.missing)

    def elements(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Yield name, attributes and content of every element that is here in full."""
        at = 0
        while (tag := _TAG.search(self.rest, at)) is not None:
            name, attributes, empty = tag.groups()
            end = tag.end()
            if not empty and name not in _NO_END:
                closing = b"</%b>" % name
                end = self.rest.find(closing, end)
                if end < 0:
                    break
                end += len(closing)
            yield name, attributes, self.rest[tag.end() : end]
            at = end
        self.rest = self.rest[at:]


class Crowd:
    """See the module."""

    def __init__(self, cast: Cast) -> None:
        self.counts = Counts()
        self.clients: list[Client] = []
        self.watcher: Client | None = None
        self._epoll = select.epoll()
        self._by_fd: dict[int, Client] = {}
        self._waiting: list[tuple[float, int]] = []  # when which client comes (back)
        self._parallel = 0
        self._opening = 0
        self._talk: list[tuple[float, int]] = []
        self._interval = 0.0
        self._answer_when: Callable[[], bool] | None = None
        self._last_arrival = 0.0
        self._input = b""
        for number, pair in enumerate(cast.pairs):
            # Spread evenly: the n-th counts if n times the share reaches another whole number.
            counting = int((number + 1) * cast.counting) > int(number * cast.counting)
            first, second = (Client(user, cast.port, counting=counting) for user in pair)
            first.partner, second.partner = second, first
            self.clients += (first, second)
        if cast.watcher_port is not None:
            self.watcher = Client(WATCHER, cast.watcher_port, counting=False)
            self._connect(self.watcher)

    # --- orders

    def obey(self, order: dict[str, float]) -> None:
        """Carry out one order; it is answered with the counts when it is done.

        * ``watch``: done when the watcher is bound;
        * ``open`` P: log everybody in, P at a time; done when all are bound;
        * ``talk`` S: each writes a message every S seconds, from now on; done at once;
        * ``hush``: nobody begins anything; done when all has arrived, or nothing does any more;
        * ``report``: done at once.
        """
        self._answer_when = lambda: True
        if "watch" in order:
            self._answer_when = lambda: self.watcher is None or self.watcher.stage is Stage.BOUND
        elif "open" in order:
            self._parallel = int(order["open"])
            self._waiting = [(0.0, index) for index in range(len(self.clients))]
            self._answer_when = self._all_bound
        elif "talk" in order:
            now, self._interval = time.monotonic(), order["talk"]
            step = self._interval / len(self.clients)
            self._talk = [(now + step * place, index) for place, index in enumerate(_shuffled(len(self.clients)))]
            heapq.heapify(self._talk)
        elif "hush" in order:
            self._talk = []
            self._last_arrival = time.monotonic()
            self._answer_when = self._quiet

    def _all_bound(self) -> bool:
        return all(client.stage is Stage.BOUND for client in self.clients)

    def _quiet(self) -> bool:
        if time.monotonic() > self._last_arrival + PATIENCE_SECONDS:
            return True
        return self._all_bound() and not any(client.lost() for client in self.clients)

    def _maybe_answer(self) -> None:
        if self._answer_when is None or not self._answer_when():
            return
        self._answer_when = None
        print(msgspec.json.encode(self.report()).decode(), flush=True)

    def report(self) -> Counts:
        """Return the counts, and begin to count anew."""
        counts, self.counts = self.counts, Counts(presences=self.counts.presences)
        counts.bound = sum(client.stage is Stage.BOUND for client in self.clients)
        counts.lost = sum(client.lost() for client in self.clients)
        return counts

    def close(self) -> None:
        """Close what is not a client's."""
        self._epoll.close()

    # --- the loop

    def serve(self) -> None:
        """Until stdin ends."""
        os.set_blocking(0, False)
        self._epoll.register(0, select.EPOLLIN)
        while True:
            for fd, _ in self._epoll.poll(0.02, 256):
                if fd == 0:
                    if not self._read_orders():
                        return
                elif (client := self._by_fd.get(fd)) is not None:
                    self._read(client)
            now = time.monotonic()
            while self._waiting and self._opening < self._parallel and self._waiting[0][0] <= now:
                self._connect(self.clients[heapq.heappop(self._waiting)[1]])
            while self._talk and self._talk[0][0] <= now:
                due, index = self._talk[0]
                heapq.heapreplace(self._talk, (max(due + self._interval, now - 1.0), index))
                self.write_next(self.clients[index], now)
            self._maybe_answer()

    def _read_orders(self) -> bool:
        data = os.read(0, 65_536)
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            self.obey(json.loads(line))
        return bool(data)

    # --- one client

    def _connect(self, client: Client) -> None:
        self._opening += client is not self.watcher
        sock = socket.create_connection((HOST, client.port))
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sock, client.rest, client.stage = sock, b"", Stage.SASL
        self._by_fd[sock.fileno()] = client
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._send(client, _HEADER)

    def _send(self, client: Client, data: bytes) -> None:
        """Never more than the socket's buffer takes; a broken connection is noticed by reading."""
        with contextlib.suppress(OSError):
            client.sock.send(data)

    def _send_stanza(self, client: Client, data: bytes, now: float) -> None:
        if client.counting:
            client.unacked.append((data, now))
            data += _R
        if client.stage is Stage.BOUND:
            self._send(client, data)

    def write_next(self, client: Client, now: float) -> None:
        """Have it write its next message."""
        partner = client.partner
        assert partner is not None, "only the watcher has none"
        if not client.counting and client.stage is not Stage.BOUND:
            return  # it has nobody to say it to, and knows
        client.sent += 1
        client.sent_at[client.sent] = now
        self.counts.sent += 1
        message = f"<message to='{partner.jid}' type='chat'><body>{client.sent}</body></message>"
        self._send_stanza(client, message.encode(), now)

    def _read(self, client: Client) -> None:
        try:
            data = client.sock.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if self.take(client, data) or not data:
            self._lose(client)

    def take(self, client: Client, data: bytes) -> bool:
        """Take what a client has read. Return whether its stream has ended."""
        client.rest += data
        for name, attributes, content in client.elements():
            if name == b"/stream:stream":
                return True
            if client.stage is Stage.BOUND:
                self._take(client, name, attributes, content)
            else:
                self._log_in(client, name, attributes)
        return False

    def _lose(self, client: Client) -> None:
        del self._by_fd[client.sock.fileno()]
        client.sock.close()
        if client.stage is Stage.BOUND:
            self.counts.noticed += 1
        else:
            self._opening -= 1
        client.stage = Stage.AWAY
        if client is not self.watcher:
            back = time.monotonic() + random.uniform(0.1, _BACK_SECONDS)
            heapq.heappush(self._waiting, (back, self.clients.index(client)))

    # --- what it is told

    def _log_in(self, client: Client, name: bytes, attributes: bytes) -> None:
        match client.stage, name:
            case Stage.SASL, b"stream:features":
                token = base64.b64encode(f"\0{client.user}\0{PASSWORD}".encode()).decode()
                auth = f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{token}</auth>"
                self._send(client, auth.encode())
                client.stage = Stage.SUCCESS
            case Stage.SUCCESS, b"success":
                self._send(client, _HEADER)
                client.stage = Stage.FEATURES
            case Stage.FEATURES, b"stream:features":
                if client.sm_id is not None:
                    resume = b"<resume xmlns='%b' h='%d' previd='%b'/>"
                    self._send(client, resume % (_SM.encode(), client.handled, client.sm_id))
                else:
                    self._send(client, _BIND)
                client.stage = Stage.BIND
            case Stage.BIND, b"resumed":
                self._acknowledge(client, attributes)
                self.counts.resumed += 1
                self._come_in(client)
            case Stage.BIND, b"failed":
                client.sm_id = None
                self._send(client, _BIND)
            case Stage.BIND, b"iq" if client.counting:
                self._send(client, f"<enable xmlns='{_SM}' resume='true'/>".encode())
            case Stage.BIND, b"enabled" | b"iq":
                client.handled = client.acked = 0
                found = _ID.search(attributes) if name == b"enabled" else None
                client.sm_id = found[1] if found is not None else None
                waiting = [data for data, _ in client.unacked]
                client.unacked.clear()
                self._come_in(client)
                for data in (*self._presences(client), *waiting):
                    self._send_stanza(client, data, time.monotonic())

    def _come_in(self, client: Client) -> None:
        client.stage = Stage.BOUND
        self._opening -= client is not self.watcher
        for data, _ in client.unacked:
            self._send(client, data)

    def _presences(self, client: Client) -> list[bytes]:
        """It is online, and the watcher is told; a server tells the watcher as well when it is no more."""
        told = [] if client is self.watcher else [f"<presence to='{WATCHER}@{DOMAIN}/{RESOURCE}'/>".encode()]
        return [b"<presence/>", *told]

    def _take(self, client: Client, name: bytes, attributes: bytes, content: bytes) -> None:
        if name in _STANZAS:
            client.handled += 1
        match name:
            case b"r":
                self._send(client, f"<a xmlns='{_SM}' h='{client.handled}'/>".encode())
            case b"a":
                self._acknowledge(client, attributes)
            case b"message":
                self._on_message(client, attributes, content)
            case b"presence" if client is self.watcher:
                self.counts.presences += 1

    def _acknowledge(self, client: Client, attributes: bytes) -> None:
        found, now = _H.search(attributes), time.monotonic()
        for _ in range((int(found[1]) if found is not None else 0) - client.acked):
            _, sent_at = client.unacked.popleft()
            client.acked += 1
            self.counts.acks.append(now - sent_at)

    def _on_message(self, client: Client, attributes: bytes, content: bytes) -> None:
        found = _BODY.search(content)
        if found is None:
            return
        if b"error" in attributes:
            self.counts.bounced += 1
            why, partner = _CONDITION.search(content), client.partner
            self.counts.bounces.append(
                f"{datetime.now(UTC):%H:%M:%S.%f} {client.user} to {partner.user if partner is not None else ''}:"
                f" {why[1].decode() if why is not None else 'no reason'}"
            )
            return
        number, self._last_arrival = int(found[1]), time.monotonic()
        partner = client.partner
        assert partner is not None
        if number in client.missing:
            client.missing.discard(number)
            self.counts.disordered += 1
        elif number > client.highest:
            client.missing.update(range(client.highest + 1, number))
            client.highest = number
        else:
            self.counts.twice += 1
            return
        self.counts.arrived += 1
        self.counts.arrivals.append(self._last_arrival - partner.sent_at.pop(number))


def _shuffled(count: int) -> list[int]:
    """Return the numbers below that, in an order that is the same in every run."""
    numbers = list(range(count))
    random.Random(count).shuffle(numbers)
    return numbers


def main() -> None:
    machine.raise_descriptor_limit()
    gc.disable()  # its pauses would be taken for the proxy's
    crowd = Crowd(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Cast))
    print("ready", flush=True)
    crowd.serve()


if __name__ == "__main__":
    main()
