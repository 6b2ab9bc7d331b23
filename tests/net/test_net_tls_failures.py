"""Why handshakes fail, by real ones: in OpenSSL's own words, whichever version it is."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from relay_tools import PATIENCE_SECONDS, client_context, server_context, server_transport, tcp_pair, write_pem

from cxfr_proxy.net.tls_errors import WANTS, forget_errors
from cxfr_proxy.net.tls_failures import TlsFailure, failure_of

RESET = struct.pack("ii", 1, 0)  # struct linger: on, no time


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    forget_errors()


def fault_of(server: ssl.SSLContext, client: ssl.SSLContext | bytes, *, reset: bool = False) -> OSError:
    """Return what the server's side raises: with a client that makes its handshake, or one that says that and goes."""
    here, there = tcp_pair()
    if isinstance(client, ssl.SSLContext):
        here = client.wrap_socket(here, server_hostname="example.org", do_handshake_on_connect=False)
    end = time.monotonic() + PATIENCE_SECONDS
    with here, server_transport(there, server) as near:
        if isinstance(client, bytes):
            here.sendall(client)
            if reset:
                here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            here.close()
        while time.monotonic() < end:
            if isinstance(here, ssl.SSLSocket):
                with contextlib.suppress(OSError):
                    here.do_handshake()
            try:
                near.do_handshake()
            except WANTS:
                continue
            except OSError as exc:
                return exc
            break
    raise AssertionError("the handshake did not fail")


@pytest.fixture
def server(tmp_path: Path) -> ssl.SSLContext:
    return server_context(write_pem(tmp_path, "example.org"))


@pytest.fixture
def client(tmp_path: Path) -> ssl.SSLContext:
    return client_context(write_pem(tmp_path, "example.org"))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_that_distrusts_the_certificate(server: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    server.maximum_version = version
    assert failure_of(fault_of(server, ssl.create_default_context())) is TlsFailure.CERTIFICATE_REFUSED


def test_no_version_in_common(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert failure_of(fault_of(server, client)) is TlsFailure.PROTOCOL_VERSION


def test_no_version_that_the_client_takes(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Here it is the client that says so."""
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    client.minimum_version = ssl.TLSVersion.TLSv1_3
    assert failure_of(fault_of(server, client)) is TlsFailure.PROTOCOL_VERSION


def test_no_cipher_in_common(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    for context, ciphers in ((server, "AES128-GCM-SHA256"), (client, "AES256-GCM-SHA384")):
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(f"ECDHE-ECDSA-{ciphers}")
    assert failure_of(fault_of(server, client)) is TlsFailure.NOTHING_SHARED


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", TlsFailure.NOT_TLS),
        (b"\x16" * 500, TlsFailure.NOT_TLS),
        (b"", TlsFailure.CLOSED),
        (b"\x16\x03\x01", TlsFailure.CLOSED),
    ],
    ids=["http", "noise", "nothing", "half"],
)
def test_whoever_says_something_else(server: ssl.SSLContext, data: bytes, expected: TlsFailure) -> None:
    assert failure_of(fault_of(server, data)) is expected


def test_a_connection_that_is_reset(server: ssl.SSLContext) -> None:
    assert failure_of(fault_of(server, b"\x16\x03\x01", reset=True)) is TlsFailure.CLOSED


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("TLSV1_ALERT_UNKNOWN_CA", TlsFailure.CERTIFICATE_REFUSED),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", TlsFailure.CERTIFICATE_REFUSED),
        ("TLSV1_ALERT_INTERNAL_ERROR", TlsFailure.ALERT),
        ("A_REASON_OF_THE_FUTURE", TlsFailure.OTHER),
        ("", TlsFailure.OTHER),
        (None, TlsFailure.OTHER),
    ],
)
def test_openssl_s_words(reason: str | None, expected: TlsFailure) -> None:
    fault = ssl.SSLError(1, "[SSL] something")
    fault.reason = reason  # type: ignore[assignment]
    assert failure_of(fault) is expected
