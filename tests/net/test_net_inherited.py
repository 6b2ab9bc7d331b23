"""Sockets that the process was started with."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from ports import free_port
from relay_tools import no_leak

from cxfr_proxy.config.values import ListenAddress
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.net import inherited
from cxfr_proxy.net.inherited import InheritedSocket, InheritedSockets, given_by_service_manager

PID = 4711


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with no_leak(), ExitStack() as stack:
        yield stack


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch) -> int:
    """The first of some numbers that no descriptor has, where the service manager's begin: 3 is taken here."""
    monkeypatch.setattr(inherited, "_FIRST_DESCRIPTOR", 700)
    return 700


def at(number: int, sock: socket.socket) -> None:
    """Have the socket's descriptor be this number, as a program that is about to start another one does."""
    os.dup2(sock.fileno(), number, inheritable=True)
    sock.close()


def environment(count: object, names: str = "", pid: object = PID) -> dict[str, str]:
    given = {"LISTEN_FDS": str(count), "LISTEN_PID": str(pid), "HOME": "/"}
    return given | ({"LISTEN_FDNAMES": names} if names else {})


def test_what_a_service_manager_gives(closing: ExitStack, first: int, tmp_path: Path) -> None:
    for number, sock in enumerate((socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX))):
        if number:
            sock.bind(str(tmp_path / "clients"))
            sock.listen()
        at(first + number, sock)
    environ = environment(2, "cxfr-proxy.socket:local")
    sockets = given_by_service_manager(environ, PID)
    closing.callback(sockets.close)
    assert environ == {"HOME": "/"}, "what it starts is told nothing of them"
    tcp, unix = sockets.take_lasting()
    closing.enter_context(tcp.listening)
    closing.enter_context(unix.listening)
    assert str(tcp) == f"127.0.0.1:{tcp.port} (cxfr-proxy.socket)"
    assert str(unix) == f"unix:{tmp_path / 'clients'} (local)"
    for each in (tcp, unix):
        assert not each.listening.get_inheritable()
        assert not each.listening.getblocking()


@pytest.mark.parametrize("environ", [{}, {"LISTEN_FDS": "1"}, environment(1, pid=PID + 1), environment("x", pid="")])
def test_what_was_meant_for_another_process_is_no_concern(environ: dict[str, str]) -> None:
    assert not given_by_service_manager(environ, PID).take_lasting()
    assert not {name for name in environ if name.startswith("LISTEN")}


@pytest.mark.parametrize("count", ["x", "", "-1", "1.0", "٣"])
def test_a_count_that_is_none(count: str) -> None:
    with pytest.raises(ConfigError, match="LISTEN_FDS: expected a number of descriptors, found"):
        given_by_service_manager(environment(count), PID)


def test_names_that_are_too_few() -> None:
    with pytest.raises(ConfigError, match="LISTEN_FDNAMES: expected a name for each of 3 descriptors, found 2"):
        given_by_service_manager(environment(3, "a:b"), PID)


def test_descriptors_that_are_not_there(closing: ExitStack, first: int) -> None:
    """However many are named; what was found before is closed."""
    at(first, socket.create_server(("127.0.0.1", 0)))
    with pytest.raises(ConfigError, match=r"descriptor 701 of LISTEN_FDS: expected a socket: Bad file descriptor"):
        given_by_service_manager(environment(10**12), PID)


def wrong_descriptors() -> Iterator[tuple[str, socket.socket | int, str]]:
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    yield "silent", silent, "expected a stream socket that listens"
    one, other = socket.socketpair()
    other.close()
    yield "connected", one, "expected a stream socket that listens"
    yield "datagrams", socket.socket(type=socket.SOCK_DGRAM), "expected a stream socket that listens"
    yield "file", os.open(os.devnull, os.O_RDONLY), "expected a socket: Socket operation on non-socket"


def test_descriptors_that_are_something_else(closing: ExitStack, first: int) -> None:
    for name, wrong, message in wrong_descriptors():
        if isinstance(wrong, socket.socket):
            at(first, wrong)
        else:
            os.dup2(wrong, first)
            os.close(wrong)
        with pytest.raises(ConfigError, match=f"descriptor 700 of LISTEN_FDS \\({name}\\): {message}"):
            given_by_service_manager(environment(1, name), PID)
        os.close(first)


# --- which is for whom


def listening(host: str, port: int = 0, **options: bool) -> InheritedSocket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return InheritedSocket(socket.create_server((host, port), family=family, **options))


@pytest.mark.parametrize(
    ("bound", "wanted", "fits"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", None, False),
        ("0.0.0.0", None, True),
        ("0.0.0.0", "0.0.0.0", True),
        ("0.0.0.0", "127.0.0.1", False),
        ("::", None, True),
        ("::", "::", True),
        ("::", "0.0.0.0", False),
        ("::1", "::1", True),
        ("::1", "127.0.0.1", False),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "a..b", False),
    ],
)
def test_an_address_has_its_sockets(closing: ExitStack, bound: str, wanted: str | None, fits: bool) -> None:
    there = listening(bound)
    closing.enter_context(there.listening)
    for port in (there.port, 0):
        sockets = InheritedSockets([there])
        assert sockets.take(ListenAddress(wanted, port)) == ([there] if fits else [])
        assert sockets.take(ListenAddress(wanted, port)) == [], "each is taken once"
    assert InheritedSockets([there]).take(ListenAddress(wanted, there.port - 1)) == []


@pytest.fixture
def port() -> int:
    """A free one; named first, since its choice takes a descriptor."""
    return free_port("0.0.0.0")


def test_both_families_and_all_of_one_address(port: int, closing: ExitStack) -> None:
    six = listening("::", port, reuse_port=True)
    more = listening("::", six.port, reuse_port=True)
    four = listening("0.0.0.0", six.port)
    other = listening("0.0.0.0")
    for each in (six, more, four, other):
        closing.enter_context(each.listening)
    assert InheritedSockets([six, four, other, more]).take(ListenAddress(None, six.port)) == [six, four, more]
    assert InheritedSockets([four, other, six]).take(ListenAddress("0.0.0.0", 0)) == [four], "one port, not any"


def test_unix_sockets_go_by_their_path(closing: ExitStack, tmp_path: Path) -> None:
    sock, nameless = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "a"))
    nameless.bind("\0cxfr-proxy-test")
    closing.enter_context(sock)
    closing.enter_context(nameless)
    sockets = InheritedSockets([InheritedSocket(sock), InheritedSocket(nameless)])
    assert not sockets.take(ListenAddress(None, 5222))
    assert not sockets.take_path(str(tmp_path / "b"))
    assert [str(each) for each in sockets.take_path("@cxfr-proxy-test")] == ["unix:@cxfr-proxy-test"]
    assert [each.path for each in sockets.take_path(str(tmp_path / "a"))] == [str(tmp_path / "a")]
