"""Certificates for clients: which one is shown, what is offered, and what is said of files that are no use."""

from __future__ import annotations

import os
import re
import socket
import ssl
import tempfile
from pathlib import Path

import pytest
from certificates import reload, served
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from relay_tools import no_leak, pem, shake_hands, write_pem
from shortages import few_descriptors

from cxfr_proxy.config.table import KeyPair
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.net.pem import read_pairs
from cxfr_proxy.net.tls import ServerCertificates, development_certificate, show_certificates
from cxfr_proxy.shortage import passes


async def hand_shake(
    certificates: ServerCertificates,
    name: str | None = None,
    *,
    alpn: list[str] | None = None,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> tuple[frozenset[str], str | None]:
    """Which names the certificate shown has, and which protocol was agreed on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    if alpn is not None:
        context.set_alpn_protocols(alpn)
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    with (
        context.wrap_socket(here, server_hostname=name, do_handshake_on_connect=False) as client,
        certificates.context_for(None).wrap_socket(there, server_side=True, do_handshake_on_connect=False) as server,
    ):
        await shake_hands(client, server)
        der = client.getpeercert(binary_form=True)
        assert der is not None
        shown = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = shown.value.get_values_for_type(x509.DNSName)
        addresses = shown.value.get_values_for_type(x509.IPAddress)
        return frozenset((*names, *map(str, addresses))), client.selected_alpn_protocol()


def pair(path: Path, key: Path | None = None) -> KeyPair:
    return KeyPair(path, key or path)


@pytest.fixture
def three(tmp_path: Path) -> ServerCertificates:
    files = [
        write_pem(tmp_path, "first.example"),
        write_pem(tmp_path, "example.org", "chat.example.org"),
        write_pem(tmp_path, "*.example.org"),
    ]
    return served([pair(path) for path in files])


FIRST, EXACT, WILD = {"first.example"}, {"example.org", "chat.example.org"}, {"*.example.org"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (None, FIRST),
        ("first.example", FIRST),
        ("unknown.example", FIRST),
        ("localhost", FIRST),
        ("example.org", EXACT),
        ("EXAMPLE.org", EXACT),
        ("chat.example.org", EXACT),
        ("other.example.org", WILD),
        ("deep.other.example.org", FIRST),
        ("org", FIRST),
    ],
)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_chosen_by_name(
    three: ServerCertificates, name: str | None, shown: set[str], version: ssl.TLSVersion
) -> None:
    assert (await hand_shake(three, name, version=version))[0] == shown


@pytest.mark.parametrize("name", [None, "example.org"])
@pytest.mark.parametrize(
    ("offered", "agreed"),
    [(None, None), (["xmpp-client"], "xmpp-client"), (["h2"], None), (["h2", "xmpp-client"], "xmpp-client")],
)
async def test_alpn(three: ServerCertificates, name: str | None, offered: list[str] | None, agreed: str | None) -> None:
    assert (await hand_shake(three, name, alpn=offered))[1] == agreed


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
async def test_old_versions_are_refused(three: ServerCertificates) -> None:
    with pytest.raises(ssl.SSLError):
        await hand_shake(three, version=ssl.TLSVersion.TLSv1_1)


async def test_key_in_a_file_of_its_own(tmp_path: Path) -> None:
    key, certificate = re.findall(rb"-----BEGIN.*?END[^\n]*\n", pem("example.org"), re.DOTALL)
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "crt").write_bytes(certificate)
    certificates = served([pair(tmp_path / "crt", tmp_path / "key")])
    assert not certificates.shown.self_signed
    assert (await hand_shake(certificates))[0] == {"example.org"}


async def test_reload(tmp_path: Path) -> None:
    path = write_pem(tmp_path, "before.example")
    certificates = served([pair(path)])
    path.write_bytes(pem("after.example"))
    assert (await hand_shake(certificates))[0] == {"before.example"}
    reload(certificates)
    assert (await hand_shake(certificates, "after.example"))[0] == {"after.example"}
    path.write_bytes(b"half a fi")
    with pytest.raises(ConfigError):
        reload(certificates)
    assert (await hand_shake(certificates))[0] == {"after.example"}, "goes on with what there was"


async def test_a_development_certificate_where_proc_is_not_mounted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with no_leak():
        certificates = served([], domains=["example.org"])
    assert (await hand_shake(certificates))[0] == {"example.org"}
    monkeypatch.undo()
    assert os.listdir(tmp_path) == [], "the key is nowhere any more"


async def test_none_makes_a_development_certificate() -> None:
    certificates = served([], domains=["example.org", "127.0.0.1", "exämple.org"])
    assert certificates.shown.self_signed
    before = certificates.context_for(None)
    reload(certificates)
    assert certificates.context_for(None) is before, "a reload does not change what clients may have accepted"
    assert (await hand_shake(certificates))[0] == {"example.org", "127.0.0.1", "xn--exmple-cua.org"}
    assert (await hand_shake(served([])))[0] == {"localhost"}


@pytest.mark.parametrize("domain", ["a" * 64 + ".exämple.org", "ä..org"])
def test_a_domain_that_no_certificate_can_name(domain: str) -> None:
    with pytest.raises(ConfigError, match="domain"):
        served([], domains=[domain])


def encrypted_key() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )


KEY, CERTIFICATE = re.findall(rb"-----BEGIN.*?END[^\n]*\n", development_certificate(["example.org"]), re.DOTALL)
OTHER_KEY = re.findall(rb"-----BEGIN.*?END[^\n]*\n", development_certificate(["example.org"]), re.DOTALL)[0]


@pytest.mark.parametrize(
    ("certificate", "key", "file", "words"),
    [
        (None, KEY, "crt", "No such file"),
        (CERTIFICATE, None, "key", "No such file"),
        (b"", KEY, "crt", "certificate in PEM form"),
        (b"\x30\x82\x01", KEY, "crt", "certificate in PEM form"),
        (CERTIFICATE.replace(b"M", b"!"), KEY, "crt", "certificate in PEM form"),
        (KEY, KEY, "crt", "certificate in PEM form"),
        (CERTIFICATE, CERTIFICATE, "key", "private key in PEM form"),
        (CERTIFICATE, b"", "key", "private key in PEM form"),
        (CERTIFICATE, OTHER_KEY, "key", "does not belong to the certificate"),
        (CERTIFICATE, encrypted_key(), "key", "protected by a password"),
    ],
    ids=(
        "no-certificate",
        "no-key",
        "empty-certificate",
        "der",
        "broken-certificate",
        "key-as-certificate",
        "certificate-as-key",
        "empty-key",
        "another-key",
        "encrypted-key",
    ),  # not the bytes, which are new in each process: xdist wants the same names in all
)
def test_files_that_are_no_use(
    tmp_path: Path, certificate: bytes | None, key: bytes | None, file: str, words: str
) -> None:
    for name, content in (("crt", certificate), ("key", key)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        served([pair(tmp_path / "crt", tmp_path / "key")])
    assert caught.value.file == str(tmp_path / file)
    assert words in caught.value.message


def test_a_missing_key_in_the_certificates_file(tmp_path: Path) -> None:
    path = tmp_path / "crt"
    path.write_bytes(CERTIFICATE)
    with pytest.raises(ConfigError, match="private key in PEM form"):
        served([pair(path)])


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        served([pair(tmp_path)])


@pytest.mark.parametrize("content", [None, b"", CERTIFICATE])
def test_what_was_read_can_be_shown_where_the_files_have_gone_bad(tmp_path: Path, content: bytes | None) -> None:
    certificate, key = tmp_path / "crt", tmp_path / "key"
    certificate.write_bytes(CERTIFICATE)
    key.write_bytes(KEY)
    pairs = [KeyPair(certificate, key)]
    first = served(pairs)
    key.unlink()
    if content is not None:
        key.write_bytes(content)
    with pytest.raises(ConfigError):
        reload(first)
    files = first.shown.files
    second = ServerCertificates(show_certificates(files))
    second.use(second.prepare(files))
    assert second.shown.files == files
    assert KEY.decode() not in repr(files), "which might come to stand in a log"


def test_a_fifo_is_no_certificate(tmp_path: Path) -> None:
    """And nobody waits for what will come out of it."""
    certificate = tmp_path / "crt"
    os.mkfifo(certificate)
    with pytest.raises(ConfigError, match="It is a FIFO, and no file"):
        served([KeyPair(certificate, certificate)])


@pytest.mark.parametrize("free", [0, 1, 2])
def test_what_can_t_be_handed_to_openssl_is_a_fault_that_passes(tmp_path: Path, free: int) -> None:
    """Two descriptors are for the texts, and one is OpenSSL's."""
    path = write_pem(tmp_path, "a.example")
    files = read_pairs((KeyPair(path, path),))
    with few_descriptors(free), pytest.raises(ConfigError, match="Too many open files") as caught:
        show_certificates(files)
    assert passes(caught.value)
    with few_descriptors(3):
        assert show_certificates(files).names("a.example")
