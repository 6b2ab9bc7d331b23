"""Which certificate a client sees: by every name that one can carry, and by the kind of its key."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from certificates import served as show
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from relay_tools import shake_hands

from cxfr_proxy.cli import main
from cxfr_proxy.config.table import KeyPair
from cxfr_proxy.net.certificate_names import CertificateNames, read_names
from cxfr_proxy.net.tls import ServerCertificates

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@cache
def key_of(kind: str) -> Key:
    return rsa.generate_private_key(65537, 2048) if kind == "RSA" else ec.generate_private_key(ec.SECP256R1())


def certificate(*names: x509.GeneralName, common: str = "somebody", kind: str = "EC") -> x509.Certificate:
    key, subject = key_of(kind), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())


def other(kind: str, tag: int, text: str) -> x509.OtherName:
    raw = text.encode()
    length = bytes((len(raw),)) if len(raw) < 128 else bytes((0x81, len(raw)))
    return x509.OtherName(x509.ObjectIdentifier(kind), bytes((tag,)) + length + raw)


def srv_name(text: str) -> x509.OtherName:
    return other("1.3.6.1.5.5.7.8.7", 0x16, text)


def xmpp_addr(text: str) -> x509.OtherName:
    return other("1.3.6.1.5.5.7.8.5", 0x0C, text)


DNS: Final = x509.DNSName
LONG: Final = ".".join(("a" * 60, "b" * 60, "c" * 60, "example"))


@pytest.mark.parametrize(
    ("names", "domains", "unusable"),
    [
        ([DNS("Example.org")], ["example.org"], []),
        ([DNS("xn--bcher-kva.example")], ["b\u00fccher.example"], []),
        ([DNS("*.example.org"), DNS("example.org")], ["*.example.org", "example.org"], []),
        ([DNS("*.xn--bcher-kva.example")], ["*.b\u00fccher.example"], []),
        ([DNS("f*.example.org"), DNS("a.*.example.org")], [], ["f*.example.org", "a.*.example.org"]),
        ([DNS("*")], [], ["*"]),
        ([x509.IPAddress(ipaddress.ip_address("192.0.2.1"))], ["192.0.2.1"], []),
        ([x509.IPAddress(ipaddress.ip_address("2001:db8::1"))], ["[2001:db8::1]"], []),
        ([srv_name("_xmpp-client.example.org")], ["example.org"], []),
        ([srv_name("_XMPP-Client.Example.org")], ["example.org"], []),
        ([srv_name("_xmpps-client.example.org")], ["example.org"], []),
        ([srv_name("_xmpp-server.example.org")], [], ["_xmpp-server.example.org"]),
        ([srv_name("_xmpp-client." + LONG)], [LONG], []),
        ([other("1.3.6.1.5.5.7.8.7", 0x13, "_xmpp-client.example.org")], [], ["OtherName"]),
        ([other("1.3.6.1.5.5.7.8.7", 0x16, "_xmpp-client.b\u00fccher.example")], [], ["OtherName"]),
        ([xmpp_addr("example.org")], ["example.org"], []),
        ([xmpp_addr("b\u00fccher.example")], ["b\u00fccher.example"], []),
        ([xmpp_addr("juliet@example.org")], [], ["juliet@example.org"]),
        ([other("1.2.3.4", 0x0C, "x")], [], ["1.2.3.4"]),
        ([x509.UniformResourceIdentifier("xmpp:example.org")], [], ["xmpp:example.org"]),
        ([x509.RFC822Name("root@example.org"), DNS("example.org")], ["example.org"], ["root@example.org"]),
        ([DNS("example.org"), xmpp_addr("example.org"), srv_name("_xmpp-client.example.org")], ["example.org"], []),
    ],
)
def test_every_name_is_used_or_told(
    names: Sequence[x509.GeneralName], domains: Sequence[str], unusable: Sequence[str]
) -> None:
    read = read_names(certificate(*names))
    assert read.domains == tuple(domains)
    assert [each.partition(" (")[0] for each in read.unusable] == list(unusable)
    assert not read.common_only


@pytest.mark.parametrize(
    ("names", "common", "expected"),
    [
        ([], "Example.org", CertificateNames(("example.org",), common_only=True)),
        ([], "*.example.org", CertificateNames(("*.example.org",), common_only=True)),
        ([], "Example Organisation", CertificateNames(())),
        ([DNS("example.org")], "example.net", CertificateNames(("example.org",))),
    ],
)
def test_the_common_name_counts_where_there_is_no_other(
    names: Sequence[x509.GeneralName], common: str, expected: CertificateNames
) -> None:
    assert read_names(certificate(*names, common=common)) == expected


# --- which one is shown


def write(directory: Path, number: int, each: x509.Certificate) -> KeyPair:
    kind = "RSA" if isinstance(each.public_key(), rsa.RSAPublicKey) else "EC"
    path = directory / f"{number}.pem"
    secret = key_of(kind).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + each.public_bytes(serialization.Encoding.PEM))
    return KeyPair(path, path)


def served(directory: Path, *certificates: x509.Certificate) -> ServerCertificates:
    return show([write(directory, number, each) for number, each in enumerate(certificates, 1)])


async def seen(certificates: ServerCertificates, to: str | None, sni: str | None, verifies: str = "any") -> str:
    """The subject of the certificate that a client is shown; ``verifies``: the only kind of key that it knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if verifies != "any":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("aRSA" if verifies == "RSA" else "aECDSA")
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    with (
        context.wrap_socket(here, server_hostname=sni, do_handshake_on_connect=False) as client,
        certificates.context_for(to).wrap_socket(there, server_side=True, do_handshake_on_connect=False) as server,
    ):
        await shake_hands(client, server)
        der = client.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).subject.rfc4514_string().removeprefix("CN=")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificates:
    return served(
        tmp_path_factory.mktemp("certificates"),
        certificate(DNS("first.example"), common="first"),
        certificate(DNS("second.example"), DNS("host.example"), common="second"),
        certificate(DNS("*.example.org"), common="wild"),
        certificate(DNS("xn--bcher-kva.example"), common="buecher"),
        certificate(srv_name("_xmpp-client.srv.example"), xmpp_addr("addr.example"), common="xmpp"),
        certificate(*(x509.IPAddress(ipaddress.ip_address(a)) for a in ("192.0.2.1", "2001:db8::1")), common="address"),
        certificate(common="common.example"),
    )


@pytest.mark.parametrize(
    ("to", "sni", "shown"),
    [
        (None, None, "first"),
        (None, "second.example", "second"),
        (None, "SECOND.example", "second"),
        (None, "xn--bcher-kva.example", "buecher"),
        (None, "srv.example", "xmpp"),
        (None, "addr.example", "xmpp"),
        (None, "common.example", "common.example"),
        (None, "chat.example.org", "wild"),
        (None, "unknown.example", "first"),
        ("second.example", None, "second"),
        ("Second.Example.", None, "second"),
        ("b\u00dccher.example", None, "buecher"),
        ("xn--bcher-kva.example", None, "buecher"),
        ("chat.example.org", None, "wild"),
        ("srv.example", None, "xmpp"),
        ("192.0.2.1", None, "address"),
        ("[2001:DB8::1]", None, "address"),
        ("unknown.example", None, "first"),
        ("second.example", "elsewhere.example", "second"),
        ("unknown.example", "second.example", "second"),
        # The header decides, RFC 6120 section 5.4.3.1.
        ("second.example", "first.example", "second"),
        ("first.example", "host.example", "first"),
    ],
)
async def test_the_header_comes_before_sni_and_that_before_the_first(
    several: ServerCertificates, to: str | None, sni: str | None, shown: str
) -> None:
    assert await seen(several, to, sni) == shown


@pytest.mark.parametrize("rsa_first", [True, False])
@pytest.mark.parametrize(("to", "sni"), [(None, None), (None, "a.example"), ("a.example", None)])
async def test_a_client_gets_the_kind_that_it_can_verify(
    tmp_path: Path, rsa_first: bool, to: str | None, sni: str | None
) -> None:
    both = [certificate(DNS("a.example"), common=kind, kind=kind) for kind in ("RSA", "EC")]
    certificates = served(tmp_path, *(both if rsa_first else both[::-1]))
    assert certificates.shown.problems == ()
    assert [await seen(certificates, to, sni, kind) for kind in ("RSA", "EC")] == ["RSA", "EC"]


async def test_a_wildcard_stands_beside_an_exact_name(tmp_path: Path) -> None:
    certificates = served(
        tmp_path,
        certificate(DNS("*.a.example"), DNS("a.example"), common="wild", kind="RSA"),
        certificate(DNS("chat.a.example"), common="chat", kind="EC"),
    )
    assert [await seen(certificates, "chat.a.example", None, kind) for kind in ("RSA", "EC")] == ["wild", "chat"]
    assert await seen(certificates, "other.a.example", None, "RSA") == "wild"
    with pytest.raises(ssl.SSLError):  # it is no certificate of theirs
        await seen(certificates, "other.a.example", None, "EC")


@pytest.mark.parametrize(
    ("certificates", "problems"),
    [
        ([certificate(DNS("a.example")), certificate(DNS("a.example"), DNS("b.example"))], ["2 is not shown for a.ex"]),
        (
            [certificate(DNS("a.example")), certificate(DNS("A.example"))],
            ["2 is never shown for a.example: one"],
        ),
        ([certificate(DNS("a.example")), certificate()], ["2 is never shown: it has no name"]),
        ([certificate(), certificate(DNS("a.example"))], []),
        ([certificate(common="a.example")], ["1 has a.example in its common name alone"]),
    ],
)
def test_what_is_never_shown_is_told(
    tmp_path: Path, certificates: Sequence[x509.Certificate], problems: Sequence[str]
) -> None:
    found = served(tmp_path, *certificates).shown.problems
    assert len(found) == len(problems)
    for said, expected in zip(found, problems, strict=True):
        assert said.replace(f"{tmp_path}/", "").replace(".pem", "").startswith(expected)


def test_check_names_what_helps_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = tmp_path / "nodes"
    nodes.write_text("a 127.0.0.1\n")
    pair = write(tmp_path, 1, certificate(DNS("a.example"), srv_name("_xmpp-server.a.example")))
    assert main(["--certificate", str(pair.certificate), "--backends", str(nodes), "check"]) == 0
    said = f"{pair.certificate}: _xmpp-server.a.example (SRVName of another service): no client here is helped by"
    assert said in capsys.readouterr().out
