"""Which worker gets which sockets, bound here or inherited."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from relay_tools import no_leak

from cxfr_proxy.config.choices import ReusePort
from cxfr_proxy.config.table import Config
from cxfr_proxy.config.values import ListenAddress, ListenPath
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.net.inherited import InheritedSocket, InheritedSockets
from cxfr_proxy.supervisor.workers.client_sockets import ClientSockets
from cxfr_proxy.supervisor.workers.slot import WorkerSlot

HERE = "127.0.0.1"


def servers(count: int, *, lasting: bool = False) -> list[InheritedSocket]:
    """So many sockets of one address, as one of these proxies has them."""
    first = socket.create_server((HERE, 0), reuse_port=True)
    more = (socket.create_server(first.getsockname(), reuse_port=True) for _ in range(count - 1))
    return [InheritedSocket(each, lasting=lasting) for each in (first, *more)]


@contextmanager
def client_sockets(config: Config, inherited: list[InheritedSocket], *, named: bool) -> Iterator[ClientSockets]:
    with no_leak_but(inherited), closing(ClientSockets(InheritedSockets(inherited))) as sockets:
        sockets.bind(config, named=named)
        yield sockets


@contextmanager
def no_leak_but(inherited: list[InheritedSocket]) -> Iterator[None]:
    """As ``no_leak``, and these are closed too."""
    with no_leak():
        yield
    assert all(each.listening.fileno() == -1 for each in inherited)


def config(workers: int, *ports: int, paths: tuple[str, ...] = ()) -> Config:
    listen = tuple(ListenAddress(HERE, port) for port in ports)
    return Config(workers=workers, listen=listen, listen_unix=tuple(map(ListenPath, paths)))


def per_slot(sockets: ClientSockets, slots: int) -> list[list[socket.socket]]:
    return [sockets.of(WorkerSlot(number)) for number in range(1, slots + 1)]


def refuses(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize(
    ("there", "slots", "dealt"),
    [
        (1, 1, [[0]]),
        (2, 2, [[0], [1]]),
        (3, 2, [[0, 2], [1]]),
        (1, 3, [[0], [0], [0]]),
        (2, 3, [[0], [1], [0]]),
    ],
)
def test_inherited_sockets_are_dealt_out(there: int, slots: int, dealt: list[list[int]]) -> None:
    inherited = servers(there)
    with client_sockets(config(slots, inherited[0].port), inherited, named=True) as sockets:
        assert per_slot(sockets, slots) == [[inherited[each].listening for each in one] for one in dealt]
        assert sockets.addresses == [(HERE, inherited[0].port)]


@pytest.mark.parametrize("named", [True, False])
def test_what_the_service_manager_gives(named: bool, tmp_path: Path) -> None:
    """All is taken if nobody has said where to listen, and then nothing else is bound."""
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "clients"))
    unix.listen()
    (tcp,) = servers(1, lasting=True)
    inherited = [tcp, InheritedSocket(unix, lasting=True)]
    said = config(2, tcp.port, 0, paths=(str(tmp_path / "clients"), str(tmp_path / "own")))
    with client_sockets(said, inherited, named=named) as sockets:
        assert sockets.addresses[0] == (HERE, tcp.port)
        assert len(sockets.addresses) == (2 if named else 1)
        assert sockets.paths == [str(tmp_path / each) for each in (("clients", "own") if named else ("clients",))]
        for each in per_slot(sockets, 2):
            assert {tcp.listening, unix} <= set(each)
    assert (tmp_path / "clients").exists(), "the file is the service manager's"


def test_sockets_that_others_have_go_on_listening() -> None:
    """A slot that rests stops listening on what is its own alone."""
    lasting, alone, common = servers(2, lasting=True), servers(2), servers(1)
    inherited = [*lasting, *alone, *common]
    ports = [each[0].port for each in (lasting, alone, common)]
    with client_sockets(config(2, *ports, 0), inherited, named=True) as sockets:
        bound = sockets.addresses[-1]
        sockets.rest(WorkerSlot(1))
        sockets.rest(WorkerSlot(2))
        assert [refuses(place) for place in sockets.addresses] == [False, True, False, True]
        sockets.wake(WorkerSlot(2))
        assert not refuses(bound)
        assert not refuses((HERE, alone[0].port))


def test_sockets_of_two_processes_go_on_listening() -> None:
    """Stopping would stop the other one's as well, which are the same."""
    with client_sockets(config(2, 0), [], named=True) as sockets:
        place = sockets.addresses[0]
        for number in (1, 2):
            sockets.rest(WorkerSlot(number))
        assert refuses(place)
        sockets.share()
        for number in (1, 2):
            sockets.rest(WorkerSlot(number))
        assert not refuses(place)
        sockets.share_no_more()
        for number in (1, 2):
            sockets.rest(WorkerSlot(number))
        assert refuses(place)


def test_a_socket_that_is_in_no_setting() -> None:
    (wanted,), (other,) = servers(1, lasting=True), servers(1, lasting=True)
    with (
        pytest.raises(ConfigError, match=rf"^127\.0\.0\.1:{other.port}: the service manager hands this over, but no"),
        client_sockets(config(1, wanted.port), [wanted, other], named=True),
    ):
        pass


def test_a_predecessors_socket_that_is_needed_no_more_is_closed() -> None:
    """Settings may have changed since; and it is never more than the settings say."""
    (wanted,), (other,) = servers(1), servers(1)
    with client_sockets(config(1, wanted.port), [wanted, other], named=False) as sockets:
        assert sockets.addresses == [(HERE, wanted.port)]
        assert other.listening.fileno() == -1


def test_two_proxies_on_one_port_if_both_say_so() -> None:
    """By default the second one is refused, however many workers it has."""
    with client_sockets(replace(config(1, 0), reuse_port=ReusePort.YES), [], named=True) as first:
        port = first.addresses[0][1]
        for workers in (1, 2):
            with (
                pytest.raises(ConfigError, match="Address already in use"),
                client_sockets(config(workers, port), [], named=True),
            ):
                pass
            with client_sockets(replace(config(workers, port), reuse_port=ReusePort.YES), [], named=True) as second:
                assert second.addresses == first.addresses
