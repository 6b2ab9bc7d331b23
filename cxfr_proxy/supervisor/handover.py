"""The messages between the proxy that runs and the one that takes its place, and the channel for them.

::

    the old one                      the new one
    HandoverBegins, news  -------->  reads settings and nodes, starts its workers
                          <--------  SuccessorReady; or SuccessorFailed, and nothing has happened
    HandedOver            -------->  takes orders from here on; the old one accepts nobody more
    counts, news          -------->  until the old one has moved its clients and ends
                          <--------  NewsNoted; SuccessorStops, and the old one has to hurry

The two may be of different versions. So this is JSON, a line for a message, in which fields that one side does not know
are passed over. News and counts that can't be read are left out.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Final, Union, cast

import msgspec
import trio

from cxfr_proxy.errors import ConfigError
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.statistics import Totals

HANDOVER_VERSION: Final = 1
VARIABLE: Final = "CXFR_PROXY_HANDOVER"
"""The environment's variable that has the new one's descriptor of the channel."""
_MAX_LINE_BYTES: Final = 256 << 20
"""The state of 10,000 pins, and the counts of 10,000 nodes, have some megabytes."""
_READ_BYTES: Final = 1 << 16
_FIRST_SECONDS: Final = 10.0
_FAILED: Final = 2
"""The exit code of a new one that has told why."""


class HandoverMessage(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """A message between the two."""


class GivenSocket(msgspec.Struct, frozen=True):
    """A socket that listens, by its descriptor. ``lasting`` as of
    :class:`~cxfr_proxy.net.inherited.InheritedSocket`."""

    descriptor: int
    lasting: bool = False


class PredecessorCounts(HandoverMessage, frozen=True):
    """The old one's counts since its beginning: ``sessions`` and ``connections`` are those it has now, ``awaited`` the
    clients that may still fetch their session, by node."""

    sessions: int = 0
    connections: int = 0
    nodes: dict[str, NodeCounts] = {}
    awaited: dict[str, int] = {}
    totals: Totals = msgspec.field(default_factory=Totals)


class HandoverBegins(HandoverMessage, frozen=True):
    """``state`` is that of :mod:`cxfr_proxy.cluster.kept_state`. Session ids up to ``last_id`` are taken."""

    version: int
    pid: int
    for_clients: tuple[GivenSocket, ...]
    for_operators: tuple[GivenSocket, ...]
    state: str
    last_id: int
    counts: PredecessorCounts


class HandedOver(HandoverMessage, frozen=True):
    """The new one is the proxy from now on. ``statistics``: of transfers, as JSON. ``workers``: deaths, workers that
    hung and that were replaced, by slot, and the seconds of CPU."""

    state: str
    statistics: msgspec.Raw
    workers: dict[int, tuple[int, int, int, float]]


class PredecessorNews(HandoverMessage, frozen=True):
    """News of clients, each an :class:`~cxfr_proxy.ipc.messages.EarlierNews` as JSON."""

    news: tuple[msgspec.Raw, ...]


class PredecessorTransfer(HandoverMessage, frozen=True):
    """A transfer is over: a :class:`~cxfr_proxy.ipc.messages.TransferEnded` as JSON."""

    ended: msgspec.Raw


class SuccessorReady(HandoverMessage, frozen=True):
    """All is read, and the workers serve."""

    version: str


class SuccessorFailed(HandoverMessage, frozen=True):
    reason: str


class SuccessorStops(HandoverMessage, frozen=True):
    """An operator has stopped the new one. The old one stops as well, if it has handed over, or else goes on."""


class NewsNoted(HandoverMessage, frozen=True):
    """All workers of the new one know that the client of that session is about to move."""

    session: int


_decoder: Final = msgspec.json.Decoder(Union[tuple(HandoverMessage.__subclasses__())])  # noqa: UP007
_encoder: Final = msgspec.json.Encoder()


def encode_handover(message: HandoverMessage) -> bytes:
    return _encoder.encode(message) + b"\n"


def decode_handover(line: bytes) -> HandoverMessage:
    """Return the message. Raises :class:`ConfigError`."""
    try:
        return cast("HandoverMessage", _decoder.decode(line))
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise ConfigError(f"handover: {exc}, in {line[:80]!r}") from exc


class HandoverChannel:
    """One end of the channel. Posting never blocks."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(end))
        self._unsent = bytearray()
        self._something = trio.Event()
        self._sent = trio.lowlevel.ParkingLot()
        self.closed = False

    def post(self, message: HandoverMessage) -> None:
        if not self.closed:
            self._unsent += encode_handover(message)
            self._something.set()

    async def flush(self) -> None:
        """Wait until everything that was posted is sent, or the channel is closed."""
        while self._unsent and not self.closed:
            await self._sent.park()

    async def run(self, receive: Callable[[HandoverMessage], None]) -> None:
        """Carry messages until the other end has closed. Raises :class:`ConfigError` for one that can't be read."""
        fault: ConfigError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                try:
                    await self._read(receive)
                except ConfigError as exc:
                    fault = exc  # raised below, since the nursery would put it into a group
                nursery.cancel_scope.cancel()
        finally:
            self.closed = True
            self._sent.unpark_all()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                await trio.aclose_forcefully(self._stream)
        if fault is not None:
            raise fault

    async def _read(self, receive: Callable[[HandoverMessage], None]) -> None:
        received = bytearray()
        try:
            while data := await self._stream.receive_some(_READ_BYTES):
                received += data
                *lines, rest = received.split(b"\n") if b"\n" in data else (received,)
                received = bytearray(rest)
                for line in lines:
                    receive(decode_handover(bytes(line)))
                if len(received) > _MAX_LINE_BYTES:
                    raise ConfigError("handover: a line that is too long")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the other end was killed: an end like any other

    async def _write(self) -> None:
        try:
            while True:
                await self._something.wait()
                self._something = trio.Event()
                while self._unsent:
                    piece = bytes(self._unsent[:_READ_BYTES])
                    await self._stream.send_all(piece)
                    del self._unsent[: len(piece)]  # behind it: flush() must not return while it is on its way
                self._sent.unpark_all()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # _read() ends the channel


# --- before the new one's loop runs


@contextmanager
def taking_the_place_of_another(environ: MutableMapping[str, str]) -> Iterator[socket.socket | None]:
    """Yield the new one's end of the channel; ``None``: this process takes nobody's place. A :class:`ConfigError` in
    the block is told the old one, for its operator, and ends this process.

    The variable is removed, since it is not for programs that this process starts.
    """
    text = environ.pop(VARIABLE, "")
    if not text:
        yield None
        return
    try:
        end = socket.socket(fileno=int(text))
        end.set_inheritable(False)
    except (ValueError, OSError) as exc:
        raise ConfigError(f"{VARIABLE}: expected the descriptor of a socket, found {text!r:.80}") from exc
    with end.dup() as for_failures:
        try:
            yield end
        except ConfigError as exc:
            _report_failure(for_failures, str(exc))
            raise SystemExit(_FAILED) from None


def read_beginning(end: socket.socket) -> HandoverBegins:
    """Read the first message, before anything else is done. Blocks. Raises :class:`ConfigError`."""
    end.settimeout(_FIRST_SECONDS)
    received = bytearray()
    try:
        # Peeked at, since what comes behind the line belongs to the channel.
        while True:
            seen = end.recv(_READ_BYTES, socket.MSG_PEEK)
            if not seen:
                raise ConfigError("handover: the proxy that was to be replaced has ended")
            at = seen.find(b"\n")
            received += end.recv(len(seen) if at < 0 else at + 1)
            if at >= 0:
                break
    except OSError as exc:
        raise ConfigError(f"handover: {exc.strerror or exc}") from exc
    message = decode_handover(bytes(received))
    if not isinstance(message, HandoverBegins) or message.version != HANDOVER_VERSION:
        raise ConfigError("handover: the proxy that runs hands over in a form that this version does not know")
    return message


def _report_failure(end: socket.socket, reason: str) -> None:
    """Tell the proxy that was to be replaced why this one can't take its place. Only before the channel runs, or when
    it has ended."""
    with contextlib.suppress(OSError):  # it sees that this process ends
        end.settimeout(1.0)
        end.sendall(encode_handover(SuccessorFailed(reason)))
