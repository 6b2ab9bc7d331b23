"""The part of a client process that does not depend on its library: commands in, events out, bytes written down.

A message has the body ``<tag> <sender> <number>``, and the same with dashes as its id: unique in a test.
"""

from __future__ import annotations

import abc
import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

Event = dict[str, Any]  # Any: these are JSON objects


def emit(event: str, user: str | None, **facts: object) -> None:
    """Write one event."""
    sys.stdout.write(json.dumps({"event": event, "user": user, "at": time.monotonic(), **facts}) + "\n")
    sys.stdout.flush()


@dataclass(slots=True)
class Connection:
    """The bytes of one TCP connection as the library wrote and read them, inside TLS."""

    opened: float = field(default_factory=time.monotonic)
    closed: float | None = None
    up: list[tuple[float, str]] = field(default_factory=list)
    down: list[tuple[float, str]] = field(default_factory=list)

    def wrote(self, data: bytes) -> None:
        self.up.append((time.monotonic(), data.decode("latin-1")))

    def read(self, data: bytes) -> None:
        self.down.append((time.monotonic(), data.decode("latin-1")))

    def ended(self) -> None:
        if self.closed is None:
            self.closed = time.monotonic()

    def as_json(self) -> Event:
        return {"opened": self.opened, "closed": self.closed, "up": self.up, "down": self.down}


@dataclass(frozen=True, slots=True)
class Login:
    """Where and how one client connects.

    ``ca`` is ``None`` where certificates are not verified. ``transfer`` configures the XEP-0051 plugin, for slixmpp;
    ``None``: it is not loaded. In it ``delay`` is how many seconds the application takes before it can leave, and
    ``parting`` how many messages it sends right behind the stream's closing tag.
    """

    user: str
    resource: str
    domain: str
    password: str
    host: str
    port: int
    tls: str
    ca: str | None
    stream_management: bool
    transfer: dict[str, Any] | None = None

    @property
    def jid(self) -> str:
        return f"{self.user}@{self.domain}/{self.resource}"


class Client(abc.ABC):
    """One user, through one library; keeps itself connected until it is closed."""

    def __init__(self, login: Login) -> None:
        self.login = login
        self.connections: list[Connection] = []
        self.is_connected = False
        self._lost_at: float | None = None
        self._numbers: dict[str, int] = {}

    @abc.abstractmethod
    def start(self) -> None:
        """Begin connecting."""

    @abc.abstractmethod
    def send_message(self, to: str, message_id: str, body: str) -> None:
        """Hand a chat message to the library."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Close the stream and stay away."""

    @property
    def connection(self) -> Connection:
        """The newest."""
        return self.connections[-1]

    def came_up(self, jid: str, *, resumed: bool) -> None:
        self.is_connected = True
        away = None if self._lost_at is None else time.monotonic() - self._lost_at
        self._lost_at = None
        emit("connected", self.login.user, jid=jid, seconds=away, resumed=resumed)

    def went_down(self, reason: object) -> None:
        """May be called more than once for one loss."""
        self.is_connected = False
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            emit("disconnected", self.login.user, reason=str(reason))

    def send_numbered(self, to: str, tag: str) -> None:
        number = self._numbers.get(tag, 0) + 1
        self._numbers[tag] = number
        message_id = f"{tag}-{self.login.user}-{number}"
        self.send_message(to, message_id, f"{tag} {self.login.user} {number}")
        emit("sent", self.login.user, to=to, id=message_id)


class MakeClient(Protocol):
    def __call__(self, login: Login) -> Client: ...


class Driver:
    """Carries out commands for the clients of one library."""

    def __init__(self, make_client: MakeClient) -> None:
        self._make_client = make_client
        self._clients: dict[str, Client] = {}
        self._sending: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until ``quit`` or the end of stdin."""
        reader = asyncio.StreamReader(limit=2**24)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            command = json.loads(line)
            if command["do"] == "quit":
                break
            self._carry_out(command)
        self._stop_sending()
        await asyncio.gather(*(client.close() for client in self._clients.values()))

    def _carry_out(self, command: Event) -> None:
        match command.pop("do"):
            case "connect":
                for user, resource in command.pop("users"):
                    self._clients[user] = self._make_client(Login(user=user, resource=resource, **command))
                    self._clients[user].start()
            case "send":
                self._stop_sending()
                self._sending = asyncio.ensure_future(self._send(**command))
            case "stop_sending":
                self._stop_sending()
            case "wire":
                wire = {user: [c.as_json() for c in client.connections] for user, client in self._clients.items()}
                emit("wire", None, connections=wire)
            case other:
                raise ValueError(other)

    def _stop_sending(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    async def _send(self, plan: list[tuple[str, list[str]]], rate: float, count: int | None, tag: str) -> None:
        await asyncio.gather(
            *(
                self._send_for(self._clients[user], recipients, rate, count, tag, index / len(plan) / rate)
                for index, (user, recipients) in enumerate(plan)
            )
        )
        emit("sending_done", None)

    async def _send_for(
        self, client: Client, recipients: list[str], rate: float, count: int | None, tag: str, delay: float
    ) -> None:
        """Sends only while connected: what a library keeps back for later is not what is tested here."""
        await asyncio.sleep(delay)
        sent = 0
        while count is None or sent < count:
            if client.is_connected:
                client.send_numbered(recipients[sent % len(recipients)], tag)
                sent += 1
            await asyncio.sleep(1 / rate)
