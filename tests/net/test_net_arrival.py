"""What is known of a client's TLS, wherever that ends."""

from __future__ import annotations

from typing import cast

import pytest

from cxfr_proxy.net.arrival import NO_TLS, Arrival
from cxfr_proxy.net.proxy_protocol import UNTOLD_TLS, ProxiedConnection
from cxfr_proxy.net.transport import Transport

ENDS = ("192.0.2.7", 40000), ("198.51.100.1", 5222)
NGINX = Arrival("10.0.0.2", 50000)


class Connection:
    """A transport of which only the TLS is asked."""

    def __init__(self, version: str | None) -> None:
        self._version = version
        self.is_encrypted = version is not None

    def version(self) -> str | None:
        return self._version

    def getsockname(self) -> object:
        return ENDS[1]


def connection(version: str | None) -> Transport:
    return cast("Transport", Connection(version))


@pytest.mark.parametrize(
    ("told", "here", "version"),
    [
        (None, None, None),
        (None, "TLSv1.3", "TLSv1.3"),
        ("TLSv1.2", None, "TLSv1.2"),
        ("TLSv1.2", "TLSv1.3", "TLSv1.2"),  # the balancer's own is not the client's
        (UNTOLD_TLS, None, "TLS"),
        (NO_TLS, None, None),
        (NO_TLS, "TLSv1.3", None),
    ],
)
def test_the_clients_end_counts(told: str | None, here: str | None, version: str | None) -> None:
    arrival = Arrival("192.0.2.7", 40000, via="10.0.0.2", told_tls=told)
    assert arrival.tls_version(connection(here)) == version
    assert arrival.is_encrypted(connection(here)) is (version is not None)
    assert arrival.passed_on(connection(here), 17).tls_version == version


@pytest.mark.parametrize("version", [None, "TLSv1.3"])
def test_what_a_balancer_tells(version: str | None) -> None:
    assert NGINX.told(ProxiedConnection(*ENDS, version)).told_tls == version


@pytest.mark.parametrize(
    ("on_tls", "told", "expected"),
    [
        (None, None, NO_TLS),
        (None, "TLSv1.3", NO_TLS),  # that was between two proxies
        (True, None, UNTOLD_TLS),
        (True, "TLSv1.3", UNTOLD_TLS),
        (False, "TLSv1.3", NO_TLS),
        (False, None, NO_TLS),
    ],
)
@pytest.mark.parametrize("here", [None, "TLSv1.3"])
def test_what_a_request_tells(on_tls: bool | None, told: str | None, expected: str, here: str | None) -> None:
    """TLS that ends here is the proxy's own, and so is the name that it asks for."""
    asked = Arrival("10.0.0.2", 50000, told_tls=told).asking_for(b"upstream.internal")
    arrival = asked.forwarded(ENDS[0], "10.0.0.2", on_tls=on_tls)
    assert (arrival.address, arrival.port, arrival.via, arrival.told_tls) == (*ENDS[0], "10.0.0.2", expected)
    assert arrival.is_encrypted(connection(here)) is bool(on_tls)
    assert arrival.passed_on(connection(here), 17).server_name is None
