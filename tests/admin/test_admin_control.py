"""The control socket: real unix sockets, a fake proxy behind them."""

from __future__ import annotations

# ruff: noqa: ASYNC240 - looking at a file of a temporary directory takes microseconds
import contextlib
import json
import logging
import os
import shutil
import socket
import stat
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from fake_console import START, FakeConsole
from trio.testing import MockClock

from cxfr_proxy.admin.commands.callers import Caller
from cxfr_proxy.admin.commands.table import execute
from cxfr_proxy.admin.control import client, server
from cxfr_proxy.admin.control.client import Interim, Result, call
from cxfr_proxy.admin.control.server import ControlDoor, Handler, SendLine
from cxfr_proxy.admin.control.socket_file import SocketUse, socket_file
from cxfr_proxy.admin.rows import codec
from cxfr_proxy.admin.rows.answers import Note
from cxfr_proxy.errors import ConfigError, NoProxy


@asynccontextmanager
async def serving(path: Path, fake: FakeConsole | None = None, handler: Handler | None = None) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(ControlDoor(path).serve, handler or partial(execute, (fake or FakeConsole()).console))
        yield
        nursery.cancel_scope.cancel()


async def answers(path: Path, command: str, **arguments: object) -> list[Interim | Note | Result]:
    async with aclosing(call(path, command, arguments)) as stream:
        return [answer async for answer in stream]


async def raw(path: Path, request: bytes, *, half_close: bool = False) -> list[dict[str, object]]:
    """Everything the server says to these bytes, until it closes."""
    async with await trio.open_unix_socket(str(path)) as stream:
        try:
            await stream.send_all(request)
            if half_close:
                await stream.send_eof()
        except trio.BrokenResourceError:
            pass
        received = b""
        try:
            while data := await stream.receive_some():
                received += data
        except trio.BrokenResourceError:
            pass
    return [json.loads(line) for line in received.splitlines()]


async def until(condition: Callable[[], bool]) -> None:
    """Of what happens outside of trio's knowledge."""
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.1)


async def refusal(path: Path) -> str:
    """Return the error for a proxy that cannot have ``path``."""
    with trio.fail_after(60), pytest.raises(ConfigError) as caught:
        await ControlDoor(path).serve(partial(execute, FakeConsole().console))
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


async def test_progress_then_result(path: Path) -> None:
    fake = FakeConsole()
    async with serving(path, fake):
        got = await answers(path, "drain", node="node1", wait=True)
    assert [type(answer) for answer in got] == [Interim] * 4 + [Result]
    last = got[-1].value if isinstance(got[-1], Result) else None
    assert isinstance(last, dict)
    assert (last["left"], last["finished"], last["waiting_reason"]) == (0, True, None)
    assert fake.calls == [("drain", "node1", None, None, None)]


@pytest.mark.parametrize("count", [0, 1, codec.ROWS_AT_A_TIME, codec.ROWS_AT_A_TIME + 1, 2500])
async def test_long_lists_arrive_whole(path: Path, count: int) -> None:
    async with serving(path, FakeConsole(sessions_count=count)):
        (result,) = await answers(path, "show", what="sessions")
    assert isinstance(result, Result)
    assert isinstance(result.value, list)
    assert [row["id"] for row in result.value] == list(range(1, count + 1))


async def test_the_operators_mistake_is_said_to_the_operator(path: Path) -> None:
    async with serving(path):
        with pytest.raises(ConfigError, match=r"unknown node 'node9'; known are node1, node2"):
            await answers(path, "drain", node="node9")
        with pytest.raises(ConfigError, match="transfer-rate is not set"):
            await answers(path, "unset", setting="transfer-rate")


@pytest.mark.parametrize("umask", [0, 0o077])
async def test_mode_is_0600_and_umask_is_put_back(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        async with serving(path):
            assert stat.S_IMODE(path.lstat().st_mode) == 0o600
            assert stat.S_IMODE(Path(f"{path}.lock").lstat().st_mode) == 0o600
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert not path.exists()


async def test_makes_a_private_directory(tmp_path: Path) -> None:
    path = tmp_path / "own" / "control.sock"
    async with serving(path):
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_refuses_a_directory_where_all_may_write(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert "everybody may write" in await refusal(tmp_path / "open" / "control.sock")


async def test_a_second_proxy_is_refused_and_the_first_stays(path: Path) -> None:
    async with serving(path):
        assert "another proxy runs with the control socket" in await refusal(path)
        assert len(await answers(path, "show", what="nodes")) == 1


async def test_the_lock_tells_also_when_the_socket_is_gone(path: Path) -> None:
    async with serving(path):
        path.unlink()
        assert "another proxy runs with the control socket" in await refusal(path)


async def test_a_socket_that_answers_is_never_removed(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:  # it holds no lock: another program, or an older proxy
        other.bind(str(path))
        other.listen()
        assert "another proxy runs" in await refusal(path)
        assert path.exists()


async def test_a_stale_socket_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    async with serving(path):
        assert len(await answers(path, "show", what="nodes")) == 1


@pytest.mark.parametrize(
    ("user", "group", "why"),
    [
        ("no-such-user", None, "no such user: 'no-such-user'"),
        ("99999999999999", None, "no such user or group: 99999999999999"),
        (None, "4294967295", "no such user or group: 4294967295"),
    ],
)
def test_an_owner_that_cannot_be_is_told_and_nothing_is_left(
    path: Path, user: str | None, group: str | None, why: str
) -> None:
    use = SocketUse("socket", "--listen-unix", makes_directory=True, user=user, group=group)
    with pytest.raises(ConfigError, match=why), socket_file(path, use):
        pass
    assert not path.exists()


async def test_a_file_in_its_place_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    assert "isn't a socket" in await refusal(path)
    assert path.read_text() == "precious"


async def test_removes_only_its_own_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        async with serving(path):
            path.rename(path.with_name("moved"))  # keeps the inode in use, so that the next one has another number
            other.bind(str(path))
        assert path.exists()


@pytest.mark.parametrize("everything", [False, True])
async def test_one_that_is_removed_is_made_again(
    path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, everything: bool
) -> None:
    """And a command that is under way goes on."""
    autojump_clock.autojump_threshold = 0.05  # sockets need real time
    caplog.set_level(logging.INFO)
    go_on = trio.Event()

    async def handler(caller: Caller, command: str, arguments: Mapping[str, object], progress: SendLine) -> object:
        if command == "wait":
            await progress("begun")
            await go_on.wait()
        return command

    async with serving(path, handler=handler), aclosing(call(path, "wait", {})) as waiting:
        assert await anext(waiting) == Interim("begun")
        if everything:
            shutil.rmtree(path.parent)
        else:
            path.unlink()
        await until(path.exists)
        assert await answers(path, "now") == [Result("now")]
        go_on.set()
        assert await anext(waiting) == Result("wait")
    assert caplog.messages == ["control-listening", "control-socket-gone", "control-socket-again"]
    assert not path.exists()


async def test_one_that_cannot_be_made_again_is_tried(
    path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    autojump_clock.autojump_threshold = 0.05
    async with serving(path):
        path.unlink()
        path.write_text("in its place")
        await until(lambda: "control-socket-failed" in caplog.messages)
        await trio.sleep(10)
        path.unlink()
        await until(path.exists)
        assert path.is_socket()
    assert caplog.messages == ["control-socket-gone", "control-socket-failed"], "each is said once"


async def test_no_room_for_the_path(tmp_path: Path) -> None:
    assert "too long" in await refusal(tmp_path / ("x" * 120))


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\n",
        b"hello\n",
        b"\xff\xfe\x00\n",
        b"[]\n",
        b"null\n",
        b'"show"\n',
        b"{}\n",
        b'{"command": 5}\n',
        b'{"command": "show", "arguments": []}\n',
        b'{"command": "show", "arguments": {"what": {"a": 1}}}\n',
        b'{"command": "sh\\ud800ow"}\n',
        b'{"command": "' + b"x" * 10_000 + b'"}\n',
        b"[" * 60_000 + b"\n",
        b"9" * 60_000 + b"\n",
        b"x" * 70_000 + b"\n",
        b"x" * 1_000_000,
    ],
    ids=lambda value: repr(value[:20]),
)
async def test_garbage_is_answered_and_kills_nothing(path: Path, request_bytes: bytes) -> None:
    async with serving(path):
        (answer,) = await raw(path, request_bytes)
        assert set(answer) == {"error"}
        assert len(json.dumps(answer)) < 1000
        assert len(await answers(path, "show", what="nodes")) == 1


@pytest.mark.parametrize("said", [b"", b'{"command"'])
async def test_leaving_early_kills_nothing(path: Path, said: bytes) -> None:
    async with serving(path):
        async with await trio.open_unix_socket(str(path)) as stream:
            if said:
                await stream.send_all(said)
        assert len(await answers(path, "show", what="nodes")) == 1


async def test_a_request_without_its_newline_at_the_end_of_input(path: Path) -> None:
    async with serving(path):
        (answer,) = await raw(path, b'{"command": "show", "arguments": {"what": "nodes"}}', half_close=True)
    assert "result" in answer


async def test_half_closing_is_not_leaving(path: Path) -> None:
    async with serving(path):
        got = await raw(path, b'{"command": "drain", "arguments": {"node": "node1", "wait": true}}\n', half_close=True)
    assert [set(answer) for answer in got] == [{"progress"}] * 4 + [{"result"}]


async def test_leaving_ends_the_wait_and_not_the_drain(path: Path) -> None:
    fake = FakeConsole(script=(START,))
    async with serving(path, fake):
        async with aclosing(call(path, "drain", {"node": "node1", "wait": True})) as stream:
            assert isinstance(await anext(stream), Interim)
            await fake.waiting.wait()
            assert fake.waits_ended == []
        with trio.fail_after(60):
            await fake.wait_ended.wait()
        assert fake.draining == {"node1"}
        assert len(await answers(path, "show", what="nodes")) == 1


async def test_many_at_once(path: Path) -> None:
    fake = FakeConsole(script=(START,))
    results: list[int] = []

    async def ask() -> None:
        results.append(len(await answers(path, "show", what="nodes")))

    async with serving(path, fake), trio.open_nursery() as waiters:
        for _ in range(20):
            waiters.start_soon(answers_until_cancelled, path)
        await fake.waiting.wait()
        async with trio.open_nursery() as askers:
            for _ in range(50):
                askers.start_soon(ask)
        waiters.cancel_scope.cancel()
    assert results == [1] * 50


async def answers_until_cancelled(path: Path) -> None:
    await answers(path, "drain", node="node1", wait=True)


async def test_a_defect_is_logged_and_answered(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(caller: Caller, command: str, arguments: Mapping[str, object], send: SendLine) -> object:
        raise ZeroDivisionError("a secret of the program")

    async with serving(path, handler=broken):
        for _ in range(2):
            with pytest.raises(ConfigError, match="its log says why") as caught:
                await answers(path, "anything")
            assert "secret" not in str(caught.value)
    assert [record.msg for record in caplog.records] == ["fault"] * 2


async def test_an_answer_without_a_json_form_is_a_defect(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(caller: Caller, command: str, arguments: Mapping[str, object], send: SendLine) -> object:
        return object()

    async with serving(path, handler=broken):
        for _ in range(2):
            with pytest.raises(ConfigError, match="closed without an answer"):
                await answers(path, "anything")
    assert len(caplog.records) == 2


async def test_a_silent_client_is_not_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.0)
    async with serving(path):
        (answer,) = await raw(path, b"")
    assert answer == {"error": {"message": "no complete request within 0 seconds"}}


async def test_nobody_there(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no proxy runs here: .* doesn't exist"):
        await answers(path, "reload")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(ConfigError, match="no proxy answers on"):
        await answers(path, "reload")


async def test_not_allowed(path: Path) -> None:
    async with serving(path):
        path.chmod(0)
        user = os.geteuid()
        os.seteuid(user or 65534)  # root may open every socket
        try:
            with pytest.raises(ConfigError, match="not allowed to use"):
                await answers(path, "reload")
        finally:
            os.seteuid(user)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"", "closed without an answer"),
        (b'{"result": 1', "closed without an answer"),
        (b"HTTP/1.1 400 Bad Request\r\n", "no proxy of this version"),
        (b'{"outcome": 1}\n', "no proxy of this version"),
        (b'{"error": "no"}\n', "no proxy of this version"),
        (b'{"error": {"message": "no"}}\n', "^no$"),
    ],
)
async def test_what_answers_is_no_proxy(path: Path, said: bytes, message: str) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            if said:
                await stream.send_all(said)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        listening.setblocking(False)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, serve, [listener])
            with pytest.raises(ConfigError, match=message):
                await answers(path, "reload")
            nursery.cancel_scope.cancel()


async def test_a_proxy_that_stands_still_holds_nobody_for_ever(tmp_path: Path) -> None:
    """The kernel still takes the connection and the request; nothing comes back. Sockets know no mock time."""
    path = tmp_path / "c.sock"

    async def ask() -> None:
        async with aclosing(client.call(path, "show", {"what": "nodes"}, silence=0.05)) as said:
            async for _ in said:
                pass

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(1)
        with pytest.raises(NoProxy, match=rf"said nothing for 0\.05 seconds; is its process, {os.getpid()}, stopped"):
            await ask()
        with contextlib.ExitStack() as queue:
            for _ in range(2):  # those that nobody takes fill it
                waiting = queue.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect_ex(str(path))
            with pytest.raises(NoProxy, match="takes no commands"):
                await ask()


async def test_notes_come_before_the_result(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    async with serving(path, FakeConsole(missing=["worker 1 is silent"])):
        note, result = await answers(path, "show", what="nodes")
    assert note == Note("worker 1 is silent")
    assert isinstance(result, Result)


async def test_a_socket_that_is_given_away_goes_on_in_another_process(path: Path) -> None:
    """Conversations end, but for the one that stays; nobody is refused, and the file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    begun, ends, heard = trio.Event(), trio.Event(), list[object]()

    async def old(caller: Caller, command: str, arguments: Mapping[str, object], send: SendLine) -> object:
        if command != "stay":
            await trio.sleep_forever()
        begun.set()
        await ends.wait()
        return "old"

    async def new(caller: Caller, command: str, arguments: Mapping[str, object], send: SendLine) -> object:
        return "new"

    async def ask(command: str) -> None:
        try:
            heard.append((command, await answers(path, command)))
        except NoProxy:
            heard.append((command, "cut"))

    door = ControlDoor(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(door.serve, old)
        nursery.start_soon(ask, "watch")
        nursery.start_soon(ask, "stay")
        await begun.wait()
        assert door.listening is not None
        other = ControlDoor(path, door.listening.dup())
        door.give_away(staying="stay")
        await nursery.start(other.serve, new)
        await ask("look")
        ends.set()
        await door.wait_closed()
        assert path.exists()
        nursery.cancel_scope.cancel()
    assert set(map(str, heard)) == {
        str(("watch", "cut")),
        str(("look", [Result("new")])),
        str(("stay", [Result("old")])),
    }
    assert not path.exists(), "the last one takes it along"


async def test_a_connection_that_was_accepted_as_the_socket_was_given_away_is_cut(path: Path) -> None:
    """Its task begins behind the handover: an order would wait there for the process that is the proxy no more."""
    carried_out = []

    async def old(caller: Caller, command: str, arguments: Mapping[str, object], send: SendLine) -> object:
        carried_out.append(command)
        return "old"

    door = ControlDoor(path)
    door.give_away(staying="stay")
    ours, theirs = map(trio.SocketStream, trio.socket.socketpair())
    async with theirs:
        await theirs.send_all(b'{"command": "drain"}\n')
        with trio.fail_after(60):
            await door._converse(old, ours)
    assert (carried_out, ours.socket.fileno()) == ([], -1)
