"""Where clients come in."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from ports import free_port
from relay_tools import no_leak, until
from shortages import few_descriptors

from cxfr_proxy.config.table import ListenAddress
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.net import listen
from cxfr_proxy.net.connection_limit import ConnectionLimit
from cxfr_proxy.net.listen import (
    accept,
    bind,
    bind_shared,
    listen_again,
    listen_no_more,
    serve_streams,
    tune_accepted,
)
from cxfr_proxy.tasks import Task


@contextmanager
def bound(*addresses: ListenAddress) -> Iterator[list[trio.SocketListener]]:
    listeners = bind(addresses)
    try:
        yield listeners
    finally:
        for listener in listeners:
            listener.socket.close()


async def reach(listener: trio.SocketListener, host: str) -> str:
    """Connect; the client's address as the listener sees it."""
    port = listener.socket.getsockname()[1]
    async with await trio.open_tcp_stream(host, port), await listener.accept() as accepted:
        return str(accepted.socket.getpeername()[0])


async def test_every_address_takes_both_families() -> None:
    with bound(ListenAddress(None, 0)) as (listener,):
        assert await reach(listener, "127.0.0.1") == "::ffff:127.0.0.1"
        assert await reach(listener, "::1") == "::1"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_one_address(host: str) -> None:
    with bound(ListenAddress(host, 0)) as (listener,):
        assert await reach(listener, host) == host


async def test_accepted_connections_are_tuned_already(tmp_path: Path) -> None:
    """Linux hands the options of a listening socket on; a path has none of them."""
    with bound(ListenAddress("127.0.0.1", 0), ListenAddress("::1", 0)) as listeners:
        for seconds, hosts in ((150.0, ("127.0.0.1", "::1")), (0.0, ("127.0.0.1", "::1"))):
            tune_accepted(listeners, seconds)
            for listener, host in zip(listeners, hosts, strict=True):
                port = listener.socket.getsockname()[1]
                async with await trio.open_tcp_stream(host, port), await listener.accept() as accepted:
                    options = accepted.socket
                    assert options.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                    assert options.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == (seconds > 0)
                    assert options.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * seconds
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
        tune_accepted([trio.SocketListener(trio.socket.from_stdlib_socket(listening(sock)))], 150.0)


async def test_probes_that_a_service_manager_has_switched_on_stay_where_the_proxy_has_none() -> None:
    with bound(ListenAddress("127.0.0.1", 0)) as (listener,):
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        tune_accepted([listener], 0.0)
        assert listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize("seconds", [86_400.0, 1e9])
async def test_a_time_that_linux_does_not_take_is_its_longest(seconds: float) -> None:
    with bound(ListenAddress("127.0.0.1", 0)) as (listener,):
        tune_accepted([listener], seconds)
        assert listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 32_767


def listening(sock: socket.socket) -> socket.socket:
    sock.listen()
    return sock


async def test_several() -> None:
    with bound(ListenAddress("127.0.0.1", 0), ListenAddress("::1", 0)) as (four, six):
        assert await reach(four, "127.0.0.1") == "127.0.0.1"
        assert await reach(six, "::1") == "::1"


NOWHERE = ("2001:db8::1", 0, 0, 0)  # set aside for documentation: no machine's
HERE = ("127.0.0.1", 0)


@pytest.mark.parametrize(
    ("places", "hosts"),
    [
        ([(socket.AF_INET6, NOWHERE), (socket.AF_INET, HERE)], ["127.0.0.1"]),
        ([(socket.AF_INET, HERE), (socket.AF_INET6, NOWHERE)], ["127.0.0.1"]),
        ([(socket.AF_INET, HERE), (socket.AF_INET, HERE), (socket.AF_INET6, NOWHERE)], ["127.0.0.1"]),
        ([(socket.AF_INET6, ("::1", 0, 0, 0)), (socket.AF_INET, HERE)], ["::1", "127.0.0.1"]),
        ([(socket.AF_INET6, NOWHERE)], None),
        ([(socket.AF_INET, HERE), (socket.AF_INET, ("192.0.2.1", 0))], None),  # an address that is not this machine's
    ],
)
async def test_a_name_with_addresses_of_a_family_that_is_not_spoken_here(
    monkeypatch: pytest.MonkeyPatch, places: list[tuple[int, tuple[Any, ...]]], hosts: list[str] | None
) -> None:
    found = [(family, socket.SOCK_STREAM, 6, "", place) for family, place in places]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
    with no_leak():
        if hosts is None:
            with pytest.raises(ConfigError, match=r"cannot listen on host\.example:0: Cannot assign requested address"):
                bind([ListenAddress("host.example", 0)])
        else:
            with bound(ListenAddress("host.example", 0)) as listeners:
                assert [each.socket.getsockname()[0] for each in listeners] == hosts
            shared = listen.bind_shared([ListenAddress("host.example", 0)], 2)
            assert [[each.getsockname()[0] for each in sockets] for sockets in shared] == [hosts] * 2
            for each in (sock for sockets in shared for sock in sockets):
                each.close()


def link_local_addresses() -> list[str]:
    """This machine's, with their zones, and ready for use (``man 5 proc``: the fifth word has flags)."""
    lines = Path("/proc/net/if_inet6").read_text().splitlines() if Path("/proc/net/if_inet6").exists() else []
    found = (line.split() for line in lines)
    return [f"{IPv6Address(int(raw, 16))}%{name}" for raw, _, _, scope, flags, name in found if scope == "20"]


async def test_an_address_with_a_zone() -> None:
    addresses = link_local_addresses()
    if not addresses:
        pytest.skip("no interface has a link-local address")
    host, _, zone = addresses[0].partition("%")
    with bound(ListenAddress(addresses[0], 0)) as (listener,):
        assert listener.socket.getsockname()[3] == socket.if_nametoindex(zone)
    [[one], [other]] = listen.bind_shared([ListenAddress(addresses[0], 0)], 2)
    with one, other:
        assert one.getsockname() == other.getsockname()
        assert (one.getsockname()[0], one.getsockname()[3]) == (host, socket.if_nametoindex(zone))


def test_shared_sockets_are_tried_alone_without_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that connected in that moment would be cut off."""
    listened: list[int] = []

    class Listening(socket.socket):
        def listen(self, backlog: int = 0, /) -> None:
            listened.append(self.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))
            super().listen(backlog)

    monkeypatch.setattr(socket, "socket", Listening)
    sockets = listen.bind_shared([ListenAddress("127.0.0.1", 0)], 3)
    assert listened == [1, 1, 1]
    (port,) = {each.getsockname()[1] for (each,) in sockets}
    with pytest.raises(ConfigError, match="Address already in use"):
        listen.bind_shared([ListenAddress("127.0.0.1", port)], 2)
    for (each,) in sockets:
        each.close()


def test_two_programs_share_an_address_if_both_want_to() -> None:
    """And then both get connections, whether the port was chosen by the kernel or by number."""
    with contextlib.ExitStack() as closing:

        def shared(port: int, processes: int, *, with_others: bool) -> list[socket.socket]:
            address = ListenAddress("127.0.0.1", port)
            sockets = [each for (each,) in bind_shared([address], processes, with_others=with_others)]
            return [closing.enter_context(each) for each in sockets]

        (first,) = shared(0, 1, with_others=True)
        place = first.getsockname()
        with pytest.raises(ConfigError, match="Address already in use"):
            shared(place[1], 1, with_others=False)
        sockets = [first, *shared(place[1], 2, with_others=True)]
        for _ in range(200):  # a socket that stays without is one case in 10^35
            closing.enter_context(socket.create_connection(place))
        for each in sockets:
            accepted, _ = each.accept()
            accepted.close()
        (alone,) = shared(free_port(), 1, with_others=False)
        with pytest.raises(ConfigError, match="Address already in use"):
            shared(alone.getsockname()[1], 1, with_others=True)


async def test_a_name() -> None:
    with bound(ListenAddress("localhost", 0)) as listeners:
        assert len(listeners) == len({each.socket.family for each in listeners})
        assert await reach(listeners[0], listeners[0].socket.getsockname()[0])


FAMILIES = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}


@pytest.mark.parametrize("taken_host", FAMILIES)
async def test_all_or_nothing(taken_host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may have two addresses, of which either can be the one that is taken."""

    def both(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(family, socket.SOCK_STREAM, 6, "", (ip, port)) for ip, family in FAMILIES.items()]

    with no_leak(), socket.create_server((taken_host, 0), family=FAMILIES[taken_host]) as taken:
        address = ListenAddress("both.test", taken.getsockname()[1])
        monkeypatch.setattr(socket, "getaddrinfo", both)
        with no_leak(), pytest.raises(ConfigError) as caught:
            bind([ListenAddress("any.test", 0), address])
        assert str(caught.value) == f"cannot listen on {address}: Address already in use"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (ListenAddress("192.0.2.1", 5222), "cannot listen on 192.0.2.1:5222: Cannot assign requested address"),
        (ListenAddress("host.invalid", 5222), "cannot listen on host.invalid:5222: "),
        (ListenAddress("a" * 64, 5222), f"cannot listen on {'a' * 64}:5222: "),
        (ListenAddress("a..b", 5222), "cannot listen on a..b:5222: "),
        (ListenAddress("fe80::1%nosuchif", 5222), "cannot listen on [fe80::1%nosuchif]:5222: "),
    ],
)
async def test_impossible(address: ListenAddress, message: str) -> None:
    with no_leak(), pytest.raises(ConfigError) as caught:
        bind([address])
    assert str(caught.value).startswith(message)
    assert "while attempting" not in str(caught.value)


async def test_a_restart_does_not_wait_for_old_connections() -> None:
    """The port of a connection in TIME_WAIT can be bound again."""
    with bound(ListenAddress("127.0.0.1", 0)) as (listener,):
        port = listener.socket.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        with socket.socket(fileno=listener.socket.detach()) as raw:
            raw.setblocking(True)
            accepted, _ = raw.accept()
            accepted.close()  # closes first, so the waiting is on this side
        client.close()
    with bound(ListenAddress("127.0.0.1", port)):
        pass


# --- accepting


async def test_every_connection_is_served_until_it_is_cancelled() -> None:
    """From all listeners, more than are taken at once; afterwards the ports are closed, and what was accepted lives."""
    served: list[tuple[socket.socket, Any]] = []

    def serve(sock: socket.socket, address: Any) -> None:
        served.append((sock, address))

    with no_leak():
        async with trio.open_nursery() as nursery:
            listeners = bind([ListenAddress("127.0.0.1", 0), ListenAddress("::1", 0)])
            ports = [listener.socket.getsockname()[1] for listener in listeners]
            nursery.start_soon(accept, listeners, serve, ConnectionLimit(100))
            theirs = [socket.create_connection(("::1" if six else "127.0.0.1", ports[six])) for six in [0, 1] * 40]
            await until(lambda: len(served) == len(theirs))
            nursery.cancel_scope.cancel()
        assert {address[0] for _, address in served} == {"127.0.0.1", "::1"}
        assert {sock.getpeername()[:2] for sock, _ in served} == {sock.getsockname()[:2] for sock in theirs}
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", ports[0]))
        for sock in [*theirs, *(sock for sock, _ in served)]:
            sock.close()


class FakeSocket:
    """Answers to ``accept`` with these, and then that nobody waits."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)

    def accept(self) -> object:
        answer = self.answers.pop(0) if self.answers else BlockingIOError()
        if isinstance(answer, OSError):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("fault", "room", "served"),
    [(errno.EMFILE, False, ["one"]), (errno.ENFILE, False, ["one"]), (errno.ECONNABORTED, True, ["one", "two"])],
)
async def test_what_goes_wrong_with_one_connection(fault: int, room: bool, served: list[str]) -> None:
    done: list[str] = []

    def serve(sock: Any, address: Any) -> None:
        done.append(sock)

    fake: Any = FakeSocket(("one", ()), OSError(fault, ""), ("two", ()))
    assert listen._accept_some(fake, serve, ConnectionLimit(10)) is room
    assert sorted(done) == served


async def test_a_fault_of_the_listener_is_not_passed_over() -> None:
    fake: Any = FakeSocket(OSError(errno.EINVAL, ""))
    with pytest.raises(OSError, match=str(errno.EINVAL)):
        listen._accept_some(fake, lambda sock, address: None, ConnectionLimit(10))


def test_sockets_that_rest_get_no_connections() -> None:
    """The kernel gives them to the others of the address; and who waits already is told."""
    (first,), (second,) = bind_shared([ListenAddress("127.0.0.1", 0)], 2)
    with first, second:
        first.setblocking(True)
        second.setblocking(True)
        place = first.getsockname()
        listen_no_more([first])
        listen_no_more([first])
        clients = [socket.create_connection(place) for _ in range(20)]
        for client in clients:
            accepted, _ = second.accept()
            accepted.close()
            client.close()
        listen_again([first, second])
        assert first.getsockname() == place
        listen_no_more([second])
        with socket.create_connection(place):
            accepted, _ = first.accept()
            accepted.close()
        with socket.create_connection(place) as waiting:
            listen_no_more([first])
            with pytest.raises(ConnectionError):
                waiting.recv(1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place)


async def test_streams_wait_until_there_are_descriptors(caplog: pytest.LogCaptureFixture) -> None:
    served: list[trio.SocketStream] = []

    async def serve(stream: trio.SocketStream) -> None:
        served.append(stream)
        await stream.send_all(b"x")

    async with trio.open_nursery() as nursery:
        (listener,) = bind([ListenAddress("127.0.0.1", 0)])
        nursery.start_soon(serve_streams, Task.CONTROL, serve, [listener])
        with few_descriptors(1):
            stream = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
            await until(lambda: "accept-failed" in caplog.messages)
        async with stream:
            assert await stream.receive_some() == b"x"
            assert await stream.receive_some() == b"", "it is closed when it was served"
        nursery.cancel_scope.cancel()
    assert set(caplog.messages) == {"accept-failed"}
    assert served[0].socket.fileno() == -1
