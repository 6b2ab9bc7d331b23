"""The certificate that makes the proxy any user of the nodes: who may have its key, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from relay_tools import write_pem

from cxfr_proxy.config.table import KeyPair
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.net.node_tls import NodeCertificate


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Certificate and key in one file."""
    path = write_pem(tmp_path, "proxy.example.org")
    path.chmod(0o600)
    return path


def test_there_need_not_be_one() -> None:
    none = NodeCertificate(None)
    assert none.read() is None
    assert none.problem is None


def test_it_is_read_and_nothing_is_wrong_with_it(file: Path) -> None:
    certificate = NodeCertificate(KeyPair(file, file))
    content = certificate.content = certificate.read()
    assert content is not None
    assert "PRIVATE KEY" in content.key
    assert certificate.problem is None
    assert "PRIVATE KEY" not in repr(content)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644, 0o666])
def test_a_key_that_others_may_read_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(ConfigError, match="every user of this machine may read this key") as caught:
        NodeCertificate(KeyPair(file, file)).read()
    assert str(caught.value).startswith(f"{file}: ")


def test_a_group_may_read_it(file: Path) -> None:
    file.chmod(0o640)
    assert NodeCertificate(KeyPair(file, file)).read() is not None


def test_faults_name_the_file(tmp_path: Path, file: Path) -> None:
    nothing, none = tmp_path / "nothing.pem", tmp_path / "none.pem"
    nothing.write_text("x")
    nothing.chmod(0o600)
    for pair, fault in (
        (KeyPair(nothing, file), f"{nothing}: expected a certificate in PEM form"),
        (KeyPair(file, nothing), f"{nothing}: expected a private key in PEM form"),
        (KeyPair(file, none), f"{none}: cannot be read: No such file or directory"),
    ):
        with pytest.raises(ConfigError) as caught:
            NodeCertificate(pair).read()
        assert str(caught.value) == fault
