"""The values of ``--backends``: values, what they are written back as, and what is said of those that are wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cxfr_proxy.cluster.addresses import Address
from cxfr_proxy.cluster.backends import EtcdBackends, FileBackends, SrvBackends, parse_url
from cxfr_proxy.cluster.nodes import NodeTls, ProxyProtocol
from cxfr_proxy.config.values import BACKENDS
from cxfr_proxy.errors import ConfigError


@pytest.mark.parametrize(
    "text",
    [
        "dns+srv://_xmpp-client._tcp.example.org",
        "dns+srv://10.0.0.53:5353/_xmpp-client._tcp.example.org?tls=starttls&ca=/etc/nodes.pem",
        "dns+srv://[2001:db8::53]:53/_xmpps-client._tcp.example.org?send-proxy=v2",
        "etcd://etcd1:2379/cxfr",
        "etcds://proxy@etcd1:2379,[::1]:2380/teams/cxfr?ca=/etc/etcd.pem&password-file=/etc/cxfr/etcd",
    ],
)
def test_a_url_is_written_back_as_it_was(text: str) -> None:
    assert str(parse_url(text)) == text
    assert BACKENDS.parse(text) == parse_url(text)


def test_a_path_is_a_file() -> None:
    assert BACKENDS.parse("nodes.txt") == FileBackends("nodes.txt")
    assert BACKENDS.parse("./etcd:/x") == FileBackends("etcd:/x")


def test_srv() -> None:
    backends = parse_url("dns+srv://_XMPPS-client._tcp.Example.org.?send-proxy=v2")
    assert isinstance(backends, SrvBackends)
    assert (backends.name, backends.server) == ("_xmpps-client._tcp.example.org", None)
    assert backends.common.tls is NodeTls.DIRECT  # XEP-0368
    assert backends.common.send_proxy is ProxyProtocol.V2
    plain = parse_url("dns+srv://127.0.0.1/_xmpps-client._tcp.example.org?tls=none")
    assert isinstance(plain, SrvBackends)
    assert (plain.server, plain.common.tls) == (Address("127.0.0.1", 53), NodeTls.NONE)


def test_etcd() -> None:
    assert parse_url("etcd://one,two:1/cxfr/") == EtcdBackends((Address("one", 2379), Address("two", 1)), "/cxfr")
    secured = parse_url("etcds://p%20q@[::1]/a/b?ca=/c.pem")
    assert secured == EtcdBackends((Address("::1", 2379),), "/a/b", tls=True, ca="/c.pem", user="p q")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "http://etcd1/cxfr",
            "or a URL with dns+srv://, etcd://, etcds://; found one with 'http'",
        ),
        ("etcd://etcd1", "expected etcd://HOST:PORT/PREFIX, as in etcd://etcd1:2379/cxfr, found ''"),
        ("etcd://etcd1/a b", "without spaces"),
        ("etcd://etcd1/cxfr#x", "without spaces and '#'"),
        ("etcd://[::1/cxfr", "whose brackets match"),
        ("etcd:///cxfr", "behind etcd://: expected a host name"),
        ("etcd://etcd1:0/cxfr", "behind etcd://: expected a port"),
        ("etcd://etcd1/cxfr?ca=/x", "ca= has no effect without TLS: expected etcds://"),
        ("etcds://etcd1/cxfr?ca=x", "expected an absolute path after ca="),
        ("etcds://etcd1/cxfr?password-file=/x", "password-file= has no effect without a user"),
        ("etcds://etcd1/cxfr?cert=/x", "expected ca= or password-file= behind etcds://, found 'cert'"),
        ("dns+srv://example.org", "expected dns+srv://_xmpp-client._tcp.example.org"),
        ("dns+srv://ns.example.org/_xmpp-client._tcp.example.org", "expected the IP address of a name server"),
        ("dns+srv://_xmpp-client._tcp.example.org?tsl=direct", "did you mean 'tls'?"),
        ("dns+srv://_xmpp-client._tcp.example.org?ca=/x", "ca= has no effect without TLS"),
        ("dns+srv://_xmpp-client._tcp.example.org?weight=2", "weight= is for one node, and these options are for all"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BACKENDS.parse(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["etcd://me:hunter2@h/cxfr", "etcd://me:hunter2@h", "etcds://hunter2:@h:x/%%%"])
def test_a_password_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BACKENDS.parse(text)
    assert "CXFR_ETCD_PASSWORD" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_file_needs_neither_dns_nor_http() -> None:
    """A proxy with a file does not pay for what others need, at start and in memory."""
    names = "'httpx2', 'dns', 'anyio'"
    script = f"import sys, cxfr_proxy.proxy, cxfr_proxy.cli; print([n for n in ({names}) if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
