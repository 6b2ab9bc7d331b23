"""Serving commands: one connection carries one request and its answers.

No request can stop the server. An unknown request is answered with an error, a defect is logged and answered,
and the cost of a connection is bounded in bytes and, until the request is complete, in time.

A client that goes away ends its command's waiting, and nothing else. One that only closes its sending half (``socat``
does) is still there.
"""

from __future__ import annotations

import json
import logging
import select
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import trio

from cxfr_proxy.admin.commands.callers import Caller, Role, Way
from cxfr_proxy.admin.control.peer import peer_of
from cxfr_proxy.admin.control.socket_file import SocketFile, inherited_socket_file, socket_file
from cxfr_proxy.admin.rows.answers import Note
from cxfr_proxy.admin.rows.codec import json_pieces
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.net.listen import serve_streams
from cxfr_proxy.tasks import Task, isolated, start

MAX_REQUEST_BYTES: Final = 65_536
"""The longest sensible request, a command with a JID, has some 3 KB."""
REQUEST_SECONDS: Final = 10.0
"""From connecting to a complete request: commands send it at once, and a person at ``socat`` can type one."""
_LOOK_SECONDS: Final = 1.0
"""Between two looks whether the socket is still there: what cleans up temporary files may have taken it along."""

_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)

_log = logging.getLogger(__name__)

SendLine = Callable[[object], Awaitable[None]]


class Handler(Protocol):
    """Carries commands out."""

    async def __call__(
        self, caller: Caller, command: str, arguments: Mapping[str, object], send: SendLine, /
    ) -> object:
        """Return the result of the caller's command, whose arguments are unchecked; ``send`` tells progress meanwhile.

        Progress and results are what :mod:`cxfr_proxy.admin.rows.codec` takes. Raises :class:`ConfigError` for what the
        operator did wrong. Cancelled when the client goes away.
        """


class ControlDoor:
    """The control socket at ``path``, and the conversations on it. ``inherited`` is the socket that listens there
    already; ``None``: there is none."""

    def __init__(self, path: Path, inherited: socket.socket | None = None) -> None:
        self.path = path
        self._inherited = inherited
        self._place: SocketFile | None = None
        self._held = ExitStack()
        self._accepting = trio.CancelScope()
        self._given_away = False
        self._conversations: dict[trio.CancelScope, str | None] = {}  # with the command, once it is known
        self._ended = trio.Event()

    @property
    def listening(self) -> socket.socket | None:
        """The socket on which commands come; ``None``: none does at the moment."""
        return self._place.listening if self._place is not None else None

    def bind(self) -> None:
        """Have the socket now, unless it is inherited: commands wait in it until :meth:`serve`.

        Raises :class:`ConfigError` as :func:`~.socket_file.socket_file` does. A caller that does not serve it calls
        :meth:`close`.
        """
        if self._inherited is None:
            self._place = self._held.enter_context(socket_file(self.path))

    def close(self) -> None:
        """Close the socket that :meth:`bind` has made, where it is not served."""
        self._held.close()

    def give_away(self, staying: str) -> None:
        """Leave the socket to a process that has it as well. Conversations end, but for commands of that name."""
        self._given_away = True
        if self._place is not None:
            self._place.given_away = True
        self._accepting.cancel()
        for scope, command in self._conversations.items():
            if command != staying:
                scope.cancel()

    async def wait_closed(self) -> None:
        """Wait until it was given away, and all conversations have ended."""
        await self._ended.wait()

    async def serve(self, handler: Handler, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve commands until cancelled, or given away; ``started`` once they can be sent.

        Raises :class:`ConfigError` as :func:`~.socket_file.socket_file` does. A socket that is removed is made again,
        and commands go on meanwhile. On cancel all commands' waiting ends and the socket is removed.
        """
        with self._held as held:
            if self._place is None:
                first = inherited_socket_file(self.path, self._inherited) if self._inherited else socket_file(self.path)
                self._place = held.enter_context(first)
            async with trio.open_nursery() as commands:
                emit(_log, "control-listening", path=str(self.path))
                task_status.started()
                with self._accepting:
                    while True:
                        await _serve_until_gone(self._place, partial(self._converse, handler), commands)
                        emit(_log, "control-socket-gone", level=logging.WARNING, path=str(self.path))
                        self._place = None
                        held.close()
                        self._place = await _have_again(self.path, held)
                        emit(_log, "control-socket-again", path=str(self.path))
        self._ended.set()

    async def _converse(self, handler: Handler, stream: trio.SocketStream) -> None:
        """Serve one connection."""

        async def named(caller: Caller, command: str, arguments: Mapping[str, object], send: SendLine, /) -> object:
            self._conversations[scope] = command
            return await handler(caller, command, arguments, send)

        with trio.CancelScope() as scope:
            # One that was accepted in the turn of give_away is not among those that it ends: it begins only now.
            if self._given_away:
                scope.cancel()
            self._conversations[scope] = None
            try:
                await _serve_client(named, stream)
            finally:
                del self._conversations[scope]


async def _serve_until_gone(
    place: SocketFile, serve: Callable[[trio.SocketStream], Awaitable[None]], commands: trio.Nursery
) -> None:
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(place.listening.dup()))
    async with trio.open_nursery() as serving:
        start(serving, Task.CONTROL, partial(serve_streams, Task.CONTROL, serve, [listener], commands))
        while not place.is_gone:  # noqa: ASYNC110 - what has to be waited for is somebody else's doing
            await trio.sleep(_LOOK_SECONDS)
        serving.cancel_scope.cancel()


async def _have_again(path: Path, held: ExitStack) -> SocketFile:
    """Return the socket as soon as it can be had; each reason why it cannot is logged once."""
    said = None
    while True:
        try:
            return held.enter_context(socket_file(path))
        except ConfigError as exc:
            if str(exc) != said:
                said = str(exc)
                emit(_log, "control-socket-failed", level=logging.ERROR, reason=said)
        await trio.sleep(_LOOK_SECONDS)


class _BadRequest(Exception):
    """The request is no request; the text is the answer."""


async def _serve_client(handler: Handler, stream: trio.SocketStream) -> None:
    """Serve one connection."""
    async with stream:
        with suppress(*_GONE):  # nobody is there to be told
            await _answer(handler, stream)


async def _answer(handler: Handler, stream: trio.SocketStream) -> None:
    async def progress(value: object) -> None:
        await _send(stream, "note" if isinstance(value, Note) else "progress", value)

    try:
        with trio.fail_after(REQUEST_SECONDS):
            line = await _receive_request(stream)
        if line is None:
            return
        command, arguments = _parse_request(line)
        handling = partial(handler, _caller_on(stream))
        outcome = None  # stays so if the client went away
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_gone, stream, nursery.cancel_scope)
            outcome = await _run(handling, command, arguments, progress)
            nursery.cancel_scope.cancel()
        if outcome is not None:
            await _send(stream, *outcome)
    except trio.TooSlowError:
        await _send(stream, *_error(f"no complete request within {REQUEST_SECONDS:g} seconds"))
    except _BadRequest as exc:
        await _send(stream, *_error(str(exc)))


def _error(message: str) -> tuple[str, object]:
    return "error", {"message": message}


def _caller_on(stream: trio.SocketStream) -> Caller:
    peer = peer_of(stream)
    return Caller(f"uid {peer.uid}", Role.ADMIN, Way.CONTROL, pid=peer.pid)


async def _run(
    handling: Callable[[str, Mapping[str, object], SendLine], Awaitable[object]],
    command: str,
    arguments: Mapping[str, object],
    progress: SendLine,
) -> tuple[str, object]:
    """Return the last answer. Runs inside the nursery, so that no exception group has to be taken apart outside."""
    try:
        with isolated(Task.CONTROL, (ConfigError, *_GONE), command=command):
            return "result", await handling(command, arguments, progress)
    except ConfigError as exc:
        return _error(str(exc))
    except _GONE:
        return _error("the client went away")
    return _error("the proxy failed to do that; its log says why")


async def _receive_request(stream: trio.SocketStream) -> bytes | None:
    """Return the first line without its end; ``None`` if the client left without one."""
    received = bytearray()
    while b"\n" not in received:
        if len(received) > MAX_REQUEST_BYTES:
            raise _BadRequest(f"expected a request of at most {MAX_REQUEST_BYTES} bytes")
        data = await stream.receive_some(65_536)
        if not data:
            break
        received += data
    line, end, _ = bytes(received).partition(b"\n")
    if len(line) > MAX_REQUEST_BYTES:
        raise _BadRequest(f"expected a request of at most {MAX_REQUEST_BYTES} bytes")
    return line if end or line else None


def _parse_request(line: bytes) -> tuple[str, Mapping[str, object]]:
    try:
        request: object = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise _BadRequest("expected a line of JSON") from exc
    if not isinstance(request, dict):
        raise _BadRequest('expected an object like {"command": "show", "arguments": {"what": "nodes"}}')
    command, arguments = request.get("command"), request.get("arguments", {})
    if not isinstance(command, str):
        raise _BadRequest('expected "command" to be a string')
    if not isinstance(arguments, dict):
        raise _BadRequest('expected "arguments" to be an object')
    return command, arguments


async def _cancel_when_gone(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    """Cancel ``scope`` when the client has closed; return when it has only finished sending."""
    try:
        while await stream.receive_some(4096):
            pass  # whatever follows a request is not read as one
    except trio.BrokenResourceError:
        scope.cancel()
        return
    poll = select.poll()  # a closed peer shows as a hang-up, a half-closed one doesn't
    poll.register(stream.socket.fileno(), 0)
    if poll.poll(0):
        scope.cancel()


async def _send(stream: trio.SocketStream, kind: str, value: object) -> None:
    """Send one answer line. A long list goes out in pieces, so that other tasks run while it is encoded."""
    before = b'{"%s": ' % kind.encode()
    for piece in json_pieces(value):
        await stream.send_all(before + piece)
        before = b""
    await stream.send_all(b"}\n")
