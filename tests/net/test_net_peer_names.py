"""The names of connections."""

from __future__ import annotations

import pytest

from cxfr_proxy.net.proxy_protocol import address_of, peer_of


@pytest.mark.parametrize(
    ("place", "address"),
    [
        (("192.0.2.1", 40000), "192.0.2.1"),
        (("::ffff:192.0.2.1", 40000, 0, 0), "192.0.2.1"),  # on a socket for both families
        (("2001:db8::1", 40000, 0, 0), "2001:db8::1"),
        (("fe80::1", 40000, 0, 2), "fe80::1"),
        ("", "local"),  # a unix socket's
    ],
)
def test_one_client_has_one_address_on_whatever_socket(place: object, address: str) -> None:
    assert address_of(peer_of(place)) == address
