"""Sending a command to the proxy that runs, and reading its answers: what the command line does."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import trio

from cxfr_proxy.admin.control.peer import peer_of
from cxfr_proxy.admin.rows.answers import Note
from cxfr_proxy.admin.rows.codec import encode
from cxfr_proxy.errors import ConfigError, NoProxy
from cxfr_proxy.units import counted

SILENCE_SECONDS: Final = 30.0
"""For the proxy to say something: it carries out most commands within some seconds, and tells one that waits how far it
is every few seconds, whether anything has changed or not."""
LOOK_SECONDS: Final = 10.0
"""The same where it is only asked for what there is: it waits for no worker longer than two seconds."""
_RETRY_SECONDS: Final = 0.05
_READ_BYTES: Final = 262_144


@dataclass(frozen=True, slots=True)
class Interim:
    """How far a command has come, as decoded JSON; more follows."""

    value: object


@dataclass(frozen=True, slots=True)
class Result:
    """A command's answer as decoded JSON, the last thing that is said."""

    value: object


async def call(
    path: Path, command: str, arguments: Mapping[str, object], silence: float = SILENCE_SECONDS
) -> AsyncGenerator[Interim | Note | Result, None]:
    """Send one command to the proxy on ``path``: some :class:`Interim` and :class:`Note`, then one :class:`Result`.

    Raises :class:`NoProxy` where nobody is there, or nothing is heard of it for ``silence`` seconds;
    :class:`ConfigError` where it is not allowed, was refused by the proxy, or has no answer that makes sense. Close it
    (``contextlib.aclosing``) to stop waiting.
    """
    async with await _connect(path, silence) as stream:
        with suppress(trio.BrokenResourceError):  # it may have answered before it closed
            await stream.send_all(encode({"command": command, "arguments": dict(arguments)}) + b"\n")
        async with aclosing(_lines(stream, silence)) as lines:
            async for line in lines:
                answer = _parse_answer(line, path)
                yield answer
                if isinstance(answer, Result):
                    return
    raise NoProxy(f"the proxy on {path} closed without an answer; it may be stopping")


async def _connect(path: Path, silence: float) -> trio.SocketStream:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    code: int | None = errno.EAGAIN
    try:
        connection.setblocking(False)
        # A unix socket connects at once, or says EAGAIN while too many wait; trio's connect() takes that for success.
        with trio.move_on_after(silence):
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
    raise _why_not_connected(path, code)


def _why_not_connected(path: Path, code: int | None) -> ConfigError:
    if code == errno.ENOENT:
        return NoProxy(f"no proxy runs here: {path} doesn't exist (another place: --control PATH)")
    if code in (errno.ECONNREFUSED, errno.ENOTSOCK):
        return NoProxy(f"no proxy answers on {path}; one that died may have left it behind")
    if code == errno.EAGAIN:
        return NoProxy(f"the proxy on {path} takes no commands: too many wait; is its process stopped?")
    if code in (errno.EACCES, errno.EPERM):
        return ConfigError(f"not allowed to use {path}: be root or the user who runs the proxy")
    return ConfigError(f"{path}: {os.strerror(code) if code else 'not a path for a socket'}")


async def _lines(stream: trio.SocketStream, seconds: float) -> AsyncGenerator[bytes, None]:
    """Yield complete lines, however long the proxy makes them: it is trusted, and lists are long."""
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
            with trio.fail_after(seconds):
                data = await stream.receive_some(_READ_BYTES)
        except trio.BrokenResourceError:
            return
        except trio.TooSlowError as exc:
            silence = f"the proxy has said nothing for {counted(seconds, 'second')}"
            raise NoProxy(f"{silence}; is its process, {peer_of(stream).pid}, stopped?") from exc
        if not data:
            return
        received += data


def _parse_answer(line: bytes, path: Path) -> Interim | Note | Result:
    try:
        answer: object = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict):
        if "progress" in answer:
            return Interim(answer["progress"])
        if "result" in answer:
            return Result(answer["result"])
        note = cast("object", answer.get("note"))
        if isinstance(note, dict) and isinstance(note.get("note"), str):
            return Note(note["note"])
        error = cast("object", answer.get("error"))
        if isinstance(error, dict) and isinstance(error.get("message"), str):
            raise ConfigError(error["message"])
    raise ConfigError(f"what answers on {path} is no proxy of this version: {line[:80]!r}")
