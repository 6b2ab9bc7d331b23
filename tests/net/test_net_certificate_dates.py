"""Certificates that every client would refuse: by their dates, or because none is for a domain that is served."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from certificates import reload, served
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cxfr_proxy.cli import main
from cxfr_proxy.config.table import KeyPair
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.net.tls import ServerCertificates

GOOD, EXPIRED, FUTURE = (-1, 90), (-90, -1), (5, 90)
"""First and last day, from today."""


def write(path: Path, days: tuple[int, int], name: str = "example.org") -> Path:
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    first, last = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=each) for each in days)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(first)
        .not_valid_after(last)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + secret)
    return path


def loaded(path: Path, *domains: str) -> ServerCertificates:
    return served([KeyPair(path, path)], domains=domains)


@pytest.mark.parametrize(("days", "words"), [(EXPIRED, "has expired: it was valid until"), (FUTURE, "not valid yet")])
def test_a_good_one_is_not_replaced_by_one_that_clients_refuse(
    tmp_path: Path, days: tuple[int, int], words: str
) -> None:
    path = write(tmp_path / "a.pem", GOOD)
    certificates = loaded(path)
    before = certificates.shown.files
    write(path, days)
    with pytest.raises(ConfigError, match=f"{words}.*; what was read before is shown still"):
        reload(certificates)
    assert certificates.shown.files == before
    assert certificates.shown.problems == ()


def test_all_that_have_expired_are_named(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.pem", GOOD, f"{name}.example") for name in "abc"]
    certificates = served([KeyPair(path, path) for path in paths])
    for path in paths[1:]:
        write(path, EXPIRED, f"{path.stem}.example")
    with pytest.raises(ConfigError) as caught:
        reload(certificates)
    assert [each.file for each in caught.value.errors] == [str(path) for path in paths[1:]]


def test_one_that_has_expired_in_use_stands_in_nothing_s_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is as good as it was: a rate can be changed still, and another certificate renewed."""
    path = write(tmp_path / "a.pem", GOOD)
    certificates = loaded(path)
    monkeypatch.setattr("cxfr_proxy.net.tls.untimely", lambda *_: "has expired")
    reload(certificates)
    assert list(certificates.shown.untimely) == [str(path)]
    write(path, GOOD)
    monkeypatch.undo()
    reload(certificates)
    assert certificates.shown.problems == ()


@pytest.mark.parametrize("days", [EXPIRED, FUTURE])
def test_at_the_start_there_is_nothing_better(tmp_path: Path, days: tuple[int, int]) -> None:
    """It is used, and said; another one like it may take its place."""
    path = write(tmp_path / "a.pem", days)
    certificates = loaded(path)
    (problem,) = certificates.shown.problems
    assert problem.startswith(f"{path} ")
    write(path, EXPIRED)
    reload(certificates)
    assert "has expired" in certificates.shown.problems[0]
    write(path, GOOD)
    reload(certificates)
    assert certificates.shown.problems == ()


def test_a_domain_without_a_certificate(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pem", GOOD, "*.example.org")
    assert loaded(path, "chat.example.org", "CHAT.example.org.").shown.problems == ()
    assert loaded(path, "example.org", "a.b.example.org", "chat.example.org").shown.problems == (
        f"no certificate is for example.org: its clients are shown {path}, and refuse it",
        f"no certificate is for a.b.example.org: its clients are shown {path}, and refuse it",
    )


def test_when_they_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pem", GOOD)
    (expiry,) = loaded(path).shown.expiries.items()
    assert expiry[0] == str(path)
    assert abs(expiry[1] - datetime.datetime.now(datetime.UTC).timestamp() - 90 * 86_400) < 3600


@pytest.mark.parametrize(
    ("days", "name", "words"),
    [
        (GOOD, "example.org", "1 certificate, no faults"),
        (EXPIRED, "example.org", "has expired"),
        (FUTURE, "example.org", "is not valid yet"),
        (GOOD, "other.example", "no certificate is for example.org"),
    ],
)
def test_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], days: tuple[int, int], name: str, words: str
) -> None:
    path = write(tmp_path / "a.pem", days, name)
    (tmp_path / "nodes.txt").write_text("node1 127.0.0.1:9\n")
    good = words.endswith("no faults")
    options = ("--domain", "example.org", "--certificate", str(path))
    assert main([*options, "check", "--backends", str(tmp_path / "nodes.txt")]) == (0 if good else 1)
    assert words in capsys.readouterr().out
