"""The messages between the proxy that runs and the one that takes its place, and the channel for them.

::

    the old one                      the new one
    HandoverBegins, news  -------->  reads settings and nodes, starts its workers
                          <--------  SuccessorReady; or SuccessorFailed, and nothing has happened
    HandedOver            -------->  takes over what is kept, and orders; those that reach the old one wait
                          <--------  SuccessorServes; otherwise the old one takes all of it back
    PredecessorLeaves     -------->  the old one accepts nobody more
    counts, news          -------->  until the old one has moved its clients and ends
                          <--------  NewsNoted; SuccessorStops, and the old one has to hurry
                          <--------  PredecessorAsked: what an operator asks of all clients
    replies               -------->  of the old one's workers, and PredecessorAnswered

The two may be of different versions. So this is JSON, a line for a message, in which messages and fields that one side
does not know are passed over. News, counts and replies that can't be read are left out.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Final, Union, cast

import msgspec
import trio

from cxfr_proxy.errors import ConfigError
from cxfr_proxy.ipc.channel import LineForm, StreamChannel
from cxfr_proxy.ipc.messages import BadMessage
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.statistics import Totals

HANDOVER_VERSION: Final = 2
VARIABLE: Final = "CXFR_PROXY_HANDOVER"
"""The environment's variable that has the new one's descriptor of the channel."""
_MAX_BYTES: Final = 256 << 20
"""Of a message, and of those that wait. The state of 10,000 pins, and the counts of 10,000 nodes, have some megabytes;
what comes again and again is sent when the one before has gone out."""
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


class UnknownMessage(HandoverMessage, frozen=True):
    """One that only the other version knows. It is passed over. ``reason``: why one that both know can't be read."""

    reason: str | None = None


class PredecessorCounts(HandoverMessage, frozen=True):
    """The old one's counts since its beginning: ``sessions`` and ``connections`` are those it has now, ``awaited`` the
    clients that may still fetch their session, by node. ``last_moves``: how many seconds ago the last session has moved
    away from a node. ``workers``: those it has now, each a :class:`~cxfr_proxy.admin.rows.rows.WorkerRow` as JSON."""

    sessions: int = 0
    connections: int = 0
    nodes: dict[str, NodeCounts] = {}
    awaited: dict[str, int] = {}
    totals: Totals = msgspec.field(default_factory=Totals)
    last_moves: dict[str, float] = {}
    workers: tuple[msgspec.Raw, ...] = ()


class HandoverBegins(HandoverMessage, frozen=True):
    """``state`` is that of :mod:`cxfr_proxy.cluster.kept_state`; ``state_lock`` is the descriptor that locks its file,
    ``None`` where it is not locked. Session ids up to ``last_id`` are taken."""

    version: int
    pid: int
    for_clients: tuple[GivenSocket, ...]
    for_operators: tuple[GivenSocket, ...]
    state: str
    last_id: int
    counts: PredecessorCounts
    state_lock: int | None = None

    @property
    def descriptors(self) -> list[int]:
        """All that the new one has to inherit."""
        sockets = [each.descriptor for each in (*self.for_clients, *self.for_operators)]
        return sockets if self.state_lock is None else [*sockets, self.state_lock]


class HandedOver(HandoverMessage, frozen=True):
    """The new one is the proxy once it has all of this, and serves operators.

    ``statistics``: of transfers, as JSON. ``workers``: deaths, workers that hung and that were replaced, by slot, and
    the seconds of CPU. ``checks_failed``: by node. ``history``: the last hour, each sample a
    :class:`~cxfr_proxy.admin.rows.rows.HistoryRow` as JSON.
    """

    state: str
    statistics: msgspec.Raw
    workers: dict[int, tuple[int, int, int, float]]
    checks_failed: dict[str, int] = {}
    history: tuple[msgspec.Raw, ...] = ()


class PredecessorNews(HandoverMessage, frozen=True):
    """News of clients, each an :class:`~cxfr_proxy.ipc.messages.EarlierNews` as JSON."""

    news: tuple[msgspec.Raw, ...]


class PredecessorTransfer(HandoverMessage, frozen=True):
    """A transfer is over: a :class:`~cxfr_proxy.ipc.messages.TransferEnded` as JSON."""

    ended: msgspec.Raw


class PredecessorLeaves(HandoverMessage, frozen=True):
    """The new one is the proxy; the service manager knows it."""


class PredecessorEvents(HandoverMessage, frozen=True):
    """The old one's latest events, in place of those it has told before; each is an
    :class:`~cxfr_proxy.admin.rows.rows.EventRow` as JSON. It tells them as it hands over, when it is asked, and as it
    ends.
    """

    events: tuple[msgspec.Raw, ...]


class PredecessorReply(HandoverMessage, frozen=True):
    """A part of the answer of one of the old one's workers: a :class:`~cxfr_proxy.ipc.questions.WorkerReply` as
    JSON."""

    request: int
    reply: msgspec.Raw


class PredecessorAnswered(HandoverMessage, frozen=True):
    """All replies to that question are there; ``omissions`` say in a sentence each what is missing."""

    request: int
    omissions: tuple[str, ...] = ()


class SuccessorReady(HandoverMessage, frozen=True):
    """All is read, and the workers serve."""

    version: str


class SuccessorServes(HandoverMessage, frozen=True):
    """All is taken over, and operators are served."""


class SuccessorFailed(HandoverMessage, frozen=True):
    reason: str


class SuccessorStops(HandoverMessage, frozen=True):
    """An operator has stopped the new one. The old one stops as well, if it has handed over, or else goes on."""


class NewsNoted(HandoverMessage, frozen=True):
    """All workers of the new one know that the client of that session is about to move."""

    session: int


class PredecessorAsked(HandoverMessage, frozen=True):
    """A question to the old one's workers: a :class:`~cxfr_proxy.ipc.questions.WorkerQuestion` as JSON."""

    request: int
    question: msgspec.Raw


class _Named(msgspec.Struct):
    type: str


_NAMES: Final = frozenset(each.__name__ for each in HandoverMessage.__subclasses__())
_LEFT_OUT: Final = frozenset((PredecessorCounts.__name__, PredecessorNews.__name__))
"""Those without which the two go on, if they can't be read. All else that may differ is JSON within a message."""
_decoder: Final = msgspec.json.Decoder(Union[tuple(HandoverMessage.__subclasses__())])  # noqa: UP007
_encoder: Final = msgspec.json.Encoder()


def encode_handover(message: HandoverMessage) -> bytes:
    return _encoder.encode(message) + b"\n"


def decode_handover(line: bytes) -> HandoverMessage:
    """Return the message. Raises :class:`BadMessage`."""
    try:
        return cast("HandoverMessage", _decoder.decode(line))
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        reason = f"{exc}, in {line[:80]!r}"
        name = _name_of(line)
        if name is None or name in _NAMES - _LEFT_OUT:
            raise BadMessage(reason) from exc
        return UnknownMessage(reason if name in _NAMES else None)


def _name_of(line: bytes) -> str | None:
    try:
        return msgspec.json.decode(line, type=_Named).type
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


HANDOVER_FORM: Final[LineForm[HandoverMessage]] = LineForm(encode_handover, decode_handover, _MAX_BYTES, _MAX_BYTES)


def handover_channel(end: socket.socket) -> StreamChannel[HandoverMessage]:
    """Return the channel of which this is an end."""
    end.setblocking(False)
    return StreamChannel(trio.SocketStream(trio.socket.from_stdlib_socket(end)), HANDOVER_FORM)


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
        message = decode_handover(bytes(received))
    except OSError as exc:
        raise ConfigError(f"handover: {exc.strerror or exc}") from exc
    except BadMessage as exc:
        raise ConfigError(f"handover: {exc}") from exc
    if not isinstance(message, HandoverBegins) or message.version != HANDOVER_VERSION:
        raise ConfigError(
            "handover: the proxy that runs hands over in a form that this version does not know (stop it, and start "
            "this one)"
        )
    return message


def _report_failure(end: socket.socket, reason: str) -> None:
    """Tell the proxy that was to be replaced why this one can't take its place. Only before the channel runs, or when
    it has ended."""
    with contextlib.suppress(OSError):  # it sees that this process ends
        end.settimeout(1.0)
        end.sendall(encode_handover(SuccessorFailed(reason)))
