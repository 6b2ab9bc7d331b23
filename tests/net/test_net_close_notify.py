"""TLS's own end: what is written for it, and that the connection is read on."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from relay_tools import client_context, no_leak, server_context, server_transport, tcp_pair, write_pem

from cxfr_proxy.net.close_notify import close_notify
from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.net.transport import TlsTransport

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
Ends = tuple[ssl.SSLSocket, TlsTransport]


def step(sock: ssl.SSLSocket) -> bool:
    try:
        sock.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


@contextlib.contextmanager
def tls_ends(directory: Path, version: ssl.TLSVersion, *, shaken: bool = True) -> Iterator[Ends]:
    """The peer's, which tells a missing close_notify, and the proxy's."""
    path = write_pem(directory, "example.org")
    context = client_context(path)
    context.maximum_version = version
    there, here = tcp_pair()
    peer = context.wrap_socket(
        there, server_hostname="example.org", do_handshake_on_connect=False, suppress_ragged_eofs=False
    )
    own = server_transport(here, server_context(path))
    with peer, own:
        if shaken:
            done = {peer: False, own: False}
            while not all(done.values()):
                for sock in done:
                    done[sock] = done[sock] or step(sock)
        yield peer, own


def read(sock: ssl.SSLSocket, count: int = 1024) -> bytes:
    """As :meth:`ssl.SSLSocket.read`, once it has arrived; empty at an end that was said."""
    while True:
        try:
            return sock.read(count)
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLWantReadError:
            assert select.select([sock], [], [], 10)[0], "nothing came"


def records_of(sock: ssl.SSLSocket, data: bytes) -> bytes:
    """Return the record that TLS makes of it, not sent."""
    out, into = socket.socketpair()
    with out, into:
        with socket.socket(fileno=os.dup(sock.fileno())) as real:
            os.dup2(out.fileno(), sock.fileno())
            sock.write(data)
            os.dup2(real.fileno(), sock.fileno())
        return into.recv(65_536)


def close(sock: ssl.SSLSocket) -> bytes:
    record = close_notify(sock)
    assert socket.socket.send(sock, record) == len(record)
    return record


@VERSIONS
def test_the_peer_reads_an_end_and_not_a_cut(tmp_path: Path, version: ssl.TLSVersion) -> None:
    with no_leak(), tls_ends(tmp_path, version) as (peer, own):
        own.write(b"last words")
        assert 24 <= len(close(own)) <= 31
        assert close_notify(own) == b""  # it is said once
        own.close()
        assert read(peer, 10) == b"last words"
        assert read(peer) == b""


@VERSIONS
@pytest.mark.parametrize("when", ["before", "half", "after"])
def test_what_the_peer_sends_is_read_all_the_same(tmp_path: Path, version: ssl.TLSVersion, when: str) -> None:
    with tls_ends(tmp_path, version) as (peer, own):
        records = records_of(peer, b"under way")
        at = {"before": len(records), "half": len(records) // 2, "after": 0}[when]
        socket.socket.sendall(peer, records[:at])
        if when == "half":
            assert select.select([own], [], [], 10)[0]
            with pytest.raises(ssl.SSLWantReadError):
                own.read()
        close(own)
        assert read(peer) == b""
        socket.socket.sendall(peer, records[at:])
        peer.write(b", and more")
        assert read(own, 9) == b"under way"
        assert read(own) == b", and more"
        with pytest.raises(ssl.SSLWantReadError):
            own.read()


@VERSIONS
def test_the_peer_has_closed_before(tmp_path: Path, version: ssl.TLSVersion) -> None:
    with tls_ends(tmp_path, version) as (peer, own):
        close(peer)
        assert read(own) == b""
        assert close(own)
        assert read(peer) == b""
        assert close_notify(own) == b""


@VERSIONS
def test_where_there_is_no_tls_to_close(tmp_path: Path, version: ssl.TLSVersion) -> None:
    with tls_ends(tmp_path, version, shaken=False) as (_, own):
        assert close_notify(own) == b""
    with tls_ends(tmp_path, version) as (peer, own):
        socket.socket.sendall(peer, b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(ssl.SSLError):
            read(own)
        assert close_notify(own) == b""
    with pytest.raises(OSError, match="Bad file descriptor"):
        close_notify(own)


@VERSIONS
def test_no_descriptor_is_needed(tmp_path: Path, version: ssl.TLSVersion) -> None:
    with tls_ends(tmp_path, version) as (peer, own):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(peer.fileno(), own.fileno()) + 1, hard))
        try:
            close(own)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert read(peer) == b""


@VERSIONS
@pytest.mark.parametrize("unread", [False, True])
async def test_an_endpoint_closes_its_tls(tmp_path: Path, version: ssl.TLSVersion, unread: bool) -> None:
    with tls_ends(tmp_path, version) as (peer, own):
        endpoint = Endpoint(own)
        if unread:
            peer.write(b"x" * 100)
            assert read(own, 1) == b"x"
        endpoint.end_output()
        assert read(peer) == b""
        peer.close()
        assert await endpoint.receive_some() == b""
        endpoint.close()
    with tls_ends(tmp_path, version) as (peer, own):
        Endpoint(own).close()
        assert read(peer) == b""
