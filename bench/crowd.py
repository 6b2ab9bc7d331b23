"""Clients that can be moved, thousands in one process: ``python -m bench.crowd PORT FIRST SOURCES TLS REFUSING``.

They come from SOURCES loopback addresses, the first of which is 127.0.0.FIRST. Each speaks enough XMPP to log in, send
numbered messages to a node that echoes them, and obey or refuse a connection-transfer request (XEP-0051). REFUSING is
the share of clients, 0 to 1, that have never heard of it.

The counts, for every message sent:

* *echoed*: it came back, so the node had it and the client got what the node sent;
* *returned*: it came back as an error, so the client knows that it has to send it again;
* *twice*: it came back once more;
* *lost*: neither, and its stream is over.

A client that moves behaves as a careful one does: it answers, says nothing more, ends its stream, waits for the other
side's end, and connects again. Orders are lines of JSON on stdin, each answered by one: see :meth:`Crowd.obey`.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import json
import os
import re
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Final

from bench import machine
from bench.programs import HOST

_HEADER: Final = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
    b"to='localhost' version='1.0'>"
)
_AUTH: Final = b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGJlbmNoAGJlbmNo</auth>"
_BIND: Final = b"<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>"
_END: Final = b"</stream:stream>"
_REFUSAL: Final = (
    b"<iq type='error' id='%b'><error type='cancel'>"
    b"<service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
)
_MESSAGE: Final = b"<message to='u@localhost' type='chat' id='m%d'><body>" + b"x" * 200 + b"</body></message>"
_TAG: Final = re.compile(rb"<(message|iq|stream:error|/stream:stream)\b([^>]*)>")
_ID: Final = re.compile(rb"\bid=['\"]([^'\"]*)['\"]")
_CXFR: Final = b"urn:xmpp:cxfr"
_RECEIVE: Final = 65_536


class Stage(IntEnum):
    """``LEAVING``: the client has ended its stream and waits for the other end's. ``GONE``: for good."""

    CONNECTING = 0
    HANDSHAKE = 1
    SASL = 2
    SUCCESS = 3
    FEATURES = 4
    JID = 5
    BOUND = 6
    LEAVING = 7
    GONE = 8


_LOGIN: Final = {
    Stage.SASL: (b"</stream:features>", _AUTH),
    Stage.SUCCESS: (b"<success", _HEADER),
    Stage.FEATURES: (b"</stream:features>", _BIND),
    Stage.JID: (b"</iq>", b""),
}
"""The end of each stage of a login, and the answer to it."""


class Client:
    """One user, on one connection after the other."""

    __slots__ = ("asked_at", "index", "number", "outstanding", "refuses", "rest", "sock", "stage")

    def __init__(self, index: int, refuses: bool) -> None:
        self.index = index
        self.refuses = refuses
        self.number = 0  # of the last message, over all connections
        self.outstanding: dict[int, float] = {}  # when each was sent
        self.rest = b""
        self.sock: socket.socket
        self.stage = Stage.CONNECTING
        self.asked_at: float | None = None  # told to go, and not bound again yet


class Counts:
    """Since the last order to reset them."""

    def __init__(self) -> None:
        self.sent = self.echoed = self.returned = self.twice = self.lost = self.moved = self.failed = 0
        self.asked: list[float] = []
        self.bound: list[float] = []
        self.gaps: list[float] = []  # seconds from being told to go to being bound again
        self.latencies: list[float] = []


class Crowd:
    """See the module."""

    def __init__(self, port: int, first: int, sources: int, tls: bool, refusing: float) -> None:
        self._target = (HOST, port)
        self._sources = [f"127.0.0.{number}" for number in range(first, first + sources)]
        self._refusing = refusing
        self._tls = _client_context() if tls else None
        self._epoll = select.epoll()
        self._clients: list[Client] = []
        self._by_fd: dict[int, Client] = {}
        self._to_open = 0
        self._parallel = 0
        self._opening = 0
        self._talk: list[tuple[float, int]] = []  # when which client says something next
        self._interval = 0.0
        self.counts = Counts()
        self._answer_when: Callable[[], bool] | None = None
        self._answer_limit = 0.0
        self._input = b""

    def close(self) -> None:
        self._epoll.close()

    # --- orders

    def obey(self, order: dict[str, float]) -> None:
        """Carry out one order; it is answered with the counts when it is done.

        * ``open`` N, ``parallel`` P: N more clients, done when all are bound;
        * ``talk`` N, ``interval`` S: N of the clients say something every S seconds, from now on; done at once;
        * ``hush``: nobody begins anything; done when all is answered and everybody is bound, or after 10 seconds;
        * ``report``: done at once;
        * ``reset``: forget what was counted but for messages that are on the way; done at once.
        """
        self._answer_when = lambda: True
        self._answer_limit = time.monotonic() + 10.0
        if "open" in order:
            self._to_open += int(order["open"])
            self._parallel = int(order["parallel"])
            self._answer_when = lambda: not (self._to_open or self._opening)
            self._answer_limit = time.monotonic() + 300.0
        elif "talk" in order:
            self._begin_to_talk(int(order["talk"]), order["interval"])
        elif "hush" in order:
            self._talk = []
            self._answer_when = self._quiet
        elif "reset" in order:
            self.counts = Counts()
            self.counts.sent = sum(len(client.outstanding) for client in self._clients)

    def _begin_to_talk(self, count: int, interval: float) -> None:
        now = time.monotonic()
        self._interval = interval
        step = max(1, len(self._clients) // count)
        self._talk = [(now + interval * at / count, index) for at, index in enumerate(range(0, count * step, step))]
        heapq.heapify(self._talk)

    def _quiet(self) -> bool:
        return all(client.stage is Stage.BOUND and not client.outstanding for client in self._clients)

    def _maybe_answer(self) -> None:
        if self._answer_when is None or not (self._answer_when() or time.monotonic() > self._answer_limit):
            return
        self._answer_when = None
        counts = self.counts
        print(
            json.dumps(
                {
                    "sessions": sum(client.stage is Stage.BOUND for client in self._clients),
                    "clients": len(self._clients),
                    "outstanding": sum(len(client.outstanding) for client in self._clients),
                    **vars(counts),
                }
            ),
            flush=True,
        )

    # --- the loop

    def serve(self) -> None:
        """Until stdin ends."""
        os.set_blocking(0, False)
        self._epoll.register(0, select.EPOLLIN)
        while True:
            for fd, events in self._epoll.poll(self._patience(), 256):
                if fd == 0:
                    if not self._read_orders():
                        return
                elif (client := self._by_fd.get(fd)) is not None:
                    self._serve(client, events)
            while self._to_open and self._opening < self._parallel:
                self._to_open -= 1
                index = len(self._clients)
                # Spread evenly: the n-th refuses if n times the share reaches another whole number.
                refuses = int((index + 1) * self._refusing) > int(index * self._refusing)
                client = Client(index, refuses)
                self._clients.append(client)
                self._connect(client)
            self._say_what_is_due()
            self._maybe_answer()

    def _patience(self) -> float:
        if self._answer_when is not None:
            return 0.01
        return max(0.0, min(0.1, self._talk[0][0] - time.monotonic())) if self._talk else 0.1

    def _read_orders(self) -> bool:
        data = os.read(0, _RECEIVE)
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            self.obey(json.loads(line))
        return bool(data)

    def _say_what_is_due(self) -> None:
        now = time.monotonic()
        while self._talk and self._talk[0][0] <= now:
            due, index = self._talk[0]
            heapq.heapreplace(self._talk, (max(due + self._interval, now - 1.0), index))
            client = self._clients[index]
            if client.stage is Stage.BOUND:  # else it has nobody to say it to, and knows
                client.number += 1
                client.outstanding[client.number] = now
                self.counts.sent += 1
                self._send(client, _MESSAGE % client.number)

    # --- one client

    def _connect(self, client: Client) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        sock.bind((self._sources[client.index % len(self._sources)], 0))
        sock.connect_ex(self._target)
        client.sock, client.rest, client.stage = sock, b"", Stage.CONNECTING
        self._by_fd[sock.fileno()] = client
        self._epoll.register(sock.fileno(), select.EPOLLOUT)
        self._opening += 1

    def _serve(self, client: Client, events: int) -> None:
        try:
            if client.stage is Stage.CONNECTING:
                if events & ~select.EPOLLOUT:
                    raise OSError(client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "refused")
                self._epoll.modify(client.sock.fileno(), select.EPOLLIN)
                self._on_connected(client)
            if client.stage is Stage.HANDSHAKE:
                assert isinstance(client.sock, ssl.SSLSocket)
                client.sock.do_handshake()
                self._begin_stream(client)
            elif client.stage is not Stage.CONNECTING:
                self._read(client)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            self._on_closed(client)

    def _on_connected(self, client: Client) -> None:
        if self._tls is None:
            self._begin_stream(client)
            return
        client.sock = self._tls.wrap_socket(client.sock, server_hostname="localhost", do_handshake_on_connect=False)
        client.stage = Stage.HANDSHAKE

    def _begin_stream(self, client: Client) -> None:
        client.stage = Stage.SASL
        client.sock.send(_HEADER)

    def _read(self, client: Client) -> None:
        while True:
            data = client.sock.recv(_RECEIVE)
            if not data:
                self._on_closed(client)
                return
            client.rest += data
            if client.stage in _LOGIN:
                self._log_in(client)
            if client.stage >= Stage.BOUND and not self.read_tags(client):
                return
            if self._tls is None:
                return

    def _log_in(self, client: Client) -> None:
        marker, reply = _LOGIN[client.stage]
        if marker not in client.rest:
            return
        client.rest = b""
        client.stage = Stage(client.stage + 1)
        if reply:
            client.sock.send(reply)
            return
        self._opening -= 1
        now = time.monotonic()
        self.counts.bound.append(now)
        if client.asked_at is not None:
            self.counts.gaps.append(now - client.asked_at)
            client.asked_at = None

    def read_tags(self, client: Client) -> bool:
        """Look at every tag that is here in full; False when the connection is over."""
        last = client.rest.rfind(b"<")
        whole = len(client.rest) if client.rest.find(b">", max(last, 0)) >= 0 else max(last, 0)
        data, client.rest = client.rest[:whole], client.rest[whole:]
        for tag in _TAG.finditer(data):
            name, attributes = tag.groups()
            if name == b"message":
                self._on_message(client, attributes)
            elif name == b"iq":
                self._on_iq(client, attributes)
            elif name == b"stream:error":
                client.asked_at = client.asked_at or time.monotonic()
            else:
                if client.stage is Stage.BOUND:
                    self._send(client, _END)
                self._on_closed(client)
                return False
        return True

    def _on_message(self, client: Client, attributes: bytes) -> None:
        found = _ID.search(attributes)
        number = int(found[1][1:]) if found is not None else 0
        sent_at = client.outstanding.pop(number, None)
        if sent_at is None:
            self.counts.twice += 1
        elif b"error" in attributes:
            self.counts.returned += 1
        else:
            self.counts.echoed += 1
            self.counts.latencies.append(time.monotonic() - sent_at)

    def _on_iq(self, client: Client, attributes: bytes) -> None:
        found = _ID.search(attributes)
        if found is None or not found[1].startswith(_CXFR) or client.stage is not Stage.BOUND:
            return
        now = time.monotonic()
        self.counts.asked.append(now)
        client.asked_at = now
        if client.refuses:
            self._send(client, _REFUSAL % found[1])
        else:
            client.stage = Stage.LEAVING
            self._send(client, b"<iq type='result' id='%b'/>" % found[1] + _END)

    def _send(self, client: Client, data: bytes) -> None:
        """Never more than the socket's buffer takes; a broken connection is noticed by reading."""
        with contextlib.suppress(OSError):
            client.sock.send(data)

    def _on_closed(self, client: Client) -> None:
        """Messages that are not answered now never will be. Clients that were told to go come back, and so do clients
        that were bound."""
        was = client.stage
        self._by_fd.pop(client.sock.fileno(), None)
        client.sock.close()
        self.counts.lost += len(client.outstanding)
        client.outstanding.clear()
        if was < Stage.BOUND:
            self._opening -= 1
            self.counts.failed += 1
            client.stage = Stage.GONE
            return
        if client.asked_at is None:
            self.counts.failed += 1  # nobody had told it to go
            client.asked_at = time.monotonic()
        else:
            self.counts.moved += 1
        self._connect(client)


_BIND_ADDRESS_NO_PORT: Final = 24
"""Linux's IP_BIND_ADDRESS_NO_PORT: a port is chosen at connect, so that one can serve several destinations."""


def _client_context() -> ssl.SSLContext:
    """The certificate is the bench's own, made a moment ago."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def main() -> None:
    port, first, sources, tls, refusing = sys.argv[1:]
    machine.raise_descriptor_limit()
    gc.disable()  # its pauses would be taken for the proxy's
    crowd = Crowd(int(port), int(first), int(sources), tls == "1", float(refusing))
    print("ready", flush=True)
    crowd.serve()


if __name__ == "__main__":
    main()
