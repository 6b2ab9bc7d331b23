"""The control socket: a unix socket by which a command reaches the proxy that runs.

One connection carries one request, a line of JSON, and its answers, a line each::

    -> {"command": "drain", "arguments": {"node": "node1", "wait": true}}
    <- {"progress": {"node": "node1", "left": 512, ...}}      as often as there is some
    <- {"note": {"note": "worker 2 has not answered ..."}}    what has to be known of the result
    <- {"result": ...}    or    {"error": {"message": "..."}}     once; then the proxy closes

Rules:

- Whoever may open the socket may do everything, so its mode is 0600 from the moment it exists.
- One proxy, one socket: a lock file beside it is held while the proxy lives, and the kernel lets go of it
  however the proxy ends. So a socket without a holder is stale for certain, and two proxies that start at
  once can't remove each other's. The lock file itself stays: removing it would let two hold "the" lock.
- No request can stop the server: what can't be understood is answered with an error, a defect is logged and
  answered, and the cost of a connection is bounded in bytes and, until the request is complete, in time.
- A client that goes away cancels its command's waiting. One that only closes its sending half (``socat``) is
  still there.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import logging
import os
import select
import socket
import stat
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, aclosing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NoReturn, cast

import trio

from cxfr_proxy.admin.rows import Note
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
SILENCE_SECONDS: Final = 30.0
"""For a command: the proxy tells progress five times a second, and answers all else within some seconds."""
_RETRY_SECONDS: Final = 0.05
ROWS_AT_A_TIME: Final = 100
"""Rows encoded between two checkpoints: about a millisecond, in which no other session is served."""

Send = Callable[[object], Awaitable[None]]
Handler = Callable[[str, Mapping[str, object], Send], Awaitable[object]]
"""Gets a command's name, its unchecked arguments and a way to send progress; returns the result. Progress and
results are JSON values, dataclasses or lists of these. Raises :class:`ConfigError` for what the operator did
wrong."""

_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a command has come; more follows."""

    value: object


@dataclass(frozen=True, slots=True)
class Result:
    """A command's answer, the last thing that is said."""

    value: object


async def serve_control(
    path: Path, handler: Handler, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> NoReturn:
    """Serve commands on ``path`` until cancelled; ``started`` once they can be sent.

    A missing directory is made, for this user alone. Raises :class:`ConfigError` where the socket can't be
    had, another proxy's being there among the reasons. One that is removed is made again, and commands go on meanwhile.
    On cancel all commands' waiting ends and the socket is removed, unless somebody else's has taken its place.
    """
    with ExitStack() as held:
        place = held.enter_context(_held(path))
        async with trio.open_nursery() as commands:
            emit(_logger, "control-listening", path=str(path))
            task_status.started()
            while True:
                await _serve_until_gone(place, partial(_serve_client, handler), commands)
                emit(_logger, "control-socket-gone", level=logging.WARNING, path=str(path))
                held.close()
                place = await _have_again(path, held)
                emit(_logger, "control-socket-again", path=str(path))
    raise AssertionError("the loop has no end")


@dataclass(frozen=True, slots=True)
class _Place:
    path: Path
    listening: socket.socket
    own: os.stat_result

    @property
    def is_gone(self) -> bool:
        """Nobody who looks for the socket finds this one."""
        try:
            return not os.path.samestat(self.path.lstat(), self.own)
        except OSError:
            return True


@contextmanager
def _held(path: Path) -> Iterator[_Place]:
    _prepare_directory(path)
    with _locked(path), _bound(path) as place:
        yield place


async def _serve_until_gone(
    place: _Place, serve: Callable[[trio.SocketStream], Awaitable[None]], commands: trio.Nursery
) -> None:
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(place.listening.dup()))
    async with trio.open_nursery() as serving:
        start(serving, Task.CONTROL, partial(serve_streams, Task.CONTROL, serve, [listener], commands))
        while not place.is_gone:  # noqa: ASYNC110 - what has to be waited for is somebody else's doing
            await trio.sleep(_LOOK_SECONDS)
        serving.cancel_scope.cancel()


async def _have_again(path: Path, held: ExitStack) -> _Place:
    """As soon as it can be had; why not is said once."""
    said = None
    while True:
        try:
            return held.enter_context(_held(path))
        except ConfigError as exc:
            if str(exc) != said:
                said = str(exc)
                emit(_logger, "control-socket-failed", level=logging.ERROR, reason=said)
        await trio.sleep(_LOOK_SECONDS)


def _prepare_directory(path: Path) -> None:
    directory = path.parent
    try:
        if not directory.exists():
            directory.mkdir(mode=0o700)
        status = directory.stat()
    except OSError as exc:
        raise ConfigError(f"control socket {path}: {directory}: {exc.strerror}") from exc
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"control socket {path}: {directory} belongs to another user, who could replace it")
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise ConfigError(f"control socket {path}: everybody may write in {directory}, and so replace it")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    name = f"{path}.lock"
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise ConfigError(f"control socket: {name}: {exc.strerror}") from exc
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise _in_use(path) from exc
        yield
    finally:
        os.close(descriptor)


def _in_use(path: Path) -> ConfigError:
    return ConfigError(f"another proxy runs with the control socket {path} (give this one its own: --control PATH)")


@contextmanager
def _bound(path: Path) -> Iterator[_Place]:
    _remove_stale(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        before = os.umask(0o177)  # the whole process's; nothing else runs until it is put back
        try:
            listening.bind(os.fspath(path))
        except OSError as exc:
            raise ConfigError(f"control socket {path}: {exc.strerror or exc}") from exc
        finally:
            os.umask(before)
        own = path.lstat()
        try:
            listening.listen(64)
            yield _Place(path, listening, own)
        finally:
            _remove_if_same(path, own)


def _remove_stale(path: Path) -> None:
    """Remove a socket on which nobody listens. Raises :class:`ConfigError` for anything else that is
    there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as exc:
        raise ConfigError(f"control socket {path}: {exc.strerror}") from exc
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"control socket {path}: something is there that isn't a socket; it was left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(os.fspath(path))
    if code == errno.ECONNREFUSED:
        _remove_if_same(path, found)
    elif code != errno.ENOENT:  # connected, or EAGAIN: its queue is full
        raise _in_use(path)


def _remove_if_same(path: Path, known: os.stat_result) -> None:
    try:
        if os.path.samestat(path.lstat(), known):
            path.unlink()
    except FileNotFoundError:
        pass
    except OSError as exc:
        emit(_logger, "control-socket-not-removed", level=logging.WARNING, path=str(path), reason=exc.strerror)


class _BadRequest(Exception):
    """The request is no request; the text is the answer."""


async def _serve_client(handler: Handler, stream: trio.SocketStream) -> None:
    """One connection."""
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
        outcome = None  # stays so if the client went away
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_gone, stream, nursery.cancel_scope)
            outcome = await _run(handler, command, arguments, progress)
            nursery.cancel_scope.cancel()
        if isinstance(outcome, ConfigError):
            await _send(stream, "error", {"message": str(outcome)})
        elif outcome is not None:
            await _send(stream, "result", outcome.value)
    except trio.TooSlowError:
        await _send(stream, "error", {"message": f"no complete request within {REQUEST_SECONDS:g} seconds"})
    except _BadRequest as exc:
        await _send(stream, "error", {"message": str(exc)})


async def _run(handler: Handler, command: str, arguments: Mapping[str, object], progress: Send) -> Result | ConfigError:
    """Carry out the command inside the nursery, so that no group has to be taken apart outside of it."""
    try:
        with isolated(Task.CONTROL, (ConfigError, *_GONE), command=command):
            return Result(await handler(command, arguments, progress))
    except ConfigError as exc:
        return exc
    except _GONE:
        return ConfigError("the client went away")
    return ConfigError("the proxy failed to do that; its log says why")


async def _receive_request(stream: trio.SocketStream) -> bytes | None:
    """The first line without its end; ``None`` if the client left without one."""
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


def _as_json(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"no JSON form for {type(value).__name__}")


def _encode(value: object) -> bytes:
    return json.dumps(value, default=_as_json).encode()


async def _send(stream: trio.SocketStream, kind: str, value: object) -> None:
    """Send one answer line. A long list goes out in pieces, so that other tasks run while it is encoded."""
    if not isinstance(value, list):
        await stream.send_all(b'{"%s": %s}\n' % (kind.encode(), _encode(value)))
        return
    await stream.send_all(b'{"%s": [' % kind.encode())
    for at in range(0, len(value), ROWS_AT_A_TIME):
        rows = b", ".join(_encode(row) for row in value[at : at + ROWS_AT_A_TIME])
        await stream.send_all(b", " + rows if at else rows)
    await stream.send_all(b"]}\n")


async def call(
    path: Path, command: str, arguments: Mapping[str, object]
) -> AsyncGenerator[Progress | Note | Result, None]:
    """Send one command to the proxy on ``path``: some :class:`Progress` and :class:`Note`, then one :class:`Result`.

    Raises :class:`ConfigError`: nobody there, not allowed, refused by the proxy, nothing heard of it for
    :data:`SILENCE_SECONDS`, or no answer that makes sense. Close it (``contextlib.aclosing``) to stop waiting.
    """
    async with await _connect(path) as stream:
        with suppress(trio.BrokenResourceError):  # it may have answered before it closed
            await stream.send_all(_encode({"command": command, "arguments": dict(arguments)}) + b"\n")
        async with aclosing(_lines(stream)) as lines:
            async for line in lines:
                answer = _parse_answer(line, path)
                yield answer
                if isinstance(answer, Result):
                    return
    raise ConfigError(f"the proxy on {path} closed without an answer; it may be stopping")


async def _connect(path: Path) -> trio.SocketStream:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    code: int | None = errno.EAGAIN
    try:
        connection.setblocking(False)
        # A unix socket connects at once, or says EAGAIN while too many wait; trio's connect() takes that for success.
        with trio.move_on_after(SILENCE_SECONDS):
            while (code := connection.connect_ex(os.fspath(path))) == errno.EAGAIN:  # noqa: ASYNC110 - the kernel tells nobody
                await trio.sleep(_RETRY_SECONDS)
        if not code:
            return trio.SocketStream(trio.socket.from_stdlib_socket(connection))
    except OSError as exc:  # no path for a socket
        code = exc.errno
    except BaseException:
        connection.close()
        raise
    connection.close()
    if code == errno.ENOENT:
        raise ConfigError(f"no proxy runs here: {path} doesn't exist (another place: --control PATH)")
    if code in (errno.ECONNREFUSED, errno.ENOTSOCK):
        raise ConfigError(f"no proxy answers on {path}; one that died may have left it behind")
    if code == errno.EAGAIN:
        raise ConfigError(f"the proxy on {path} takes no commands: too many wait; is its process stopped?")
    if code in (errno.EACCES, errno.EPERM):
        raise ConfigError(f"not allowed to use {path}: be root or the user who runs the proxy")
    raise ConfigError(f"{path}: {os.strerror(code) if code else 'not a path for a socket'}")


async def _lines(stream: trio.SocketStream) -> AsyncGenerator[bytes, None]:
    """Complete lines, as long as the proxy makes them: it is trusted, and lists are long."""
    received, searched = bytearray(), 0
    while True:
        end = received.find(b"\n", searched)
        if end >= 0:
            line = bytes(received[:end])
            del received[: end + 1]
            searched = 0
            yield line
            continue
        searched = len(received)
        try:
            with trio.fail_after(SILENCE_SECONDS):
                data = await stream.receive_some(262_144)
        except trio.BrokenResourceError:
            return
        except trio.TooSlowError as exc:
            silence = f"the proxy has said nothing for {SILENCE_SECONDS:g} seconds"
            raise ConfigError(f"{silence}; is its process, {_pid_of_peer(stream)}, stopped?") from exc
        if not data:
            return
        received += data


def _pid_of_peer(stream: trio.SocketStream) -> int:
    """unix(7): who has begun to listen there."""
    size = struct.calcsize("3i")
    credentials = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


def _parse_answer(line: bytes, path: Path) -> Progress | Note | Result:
    try:
        answer: object = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict):
        if "progress" in answer:
            return Progress(answer["progress"])
        if "result" in answer:
            return Result(answer["result"])
        note = cast("object", answer.get("note"))
        if isinstance(note, dict) and isinstance(note.get("note"), str):
            return Note(note["note"])
        error = cast("object", answer.get("error"))
        if isinstance(error, dict) and isinstance(error.get("message"), str):
            raise ConfigError(error["message"])
    raise ConfigError(f"what answers on {path} is no proxy of this version: {line[:80]!r}")
