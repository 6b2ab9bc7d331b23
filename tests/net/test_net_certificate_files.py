"""Directories of certificates: which files belong together."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxfr_proxy.config.table import Config
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.net.certificate_files import files_of, key_pairs_of


def make(directory: Path, *names: str) -> None:
    for name in names:
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.touch()


def names_in(directory: Path) -> list[tuple[str, str]]:
    pairs = key_pairs_of(Config(certificates=(directory,)))
    return [(str(each.certificate.relative_to(directory)), str(each.key.relative_to(directory))) for each in pairs]


@pytest.mark.parametrize(
    ("files", "pairs"),
    [
        (["b.pem", "a.pem"], [("a.pem", "a.pem"), ("b.pem", "b.pem")]),
        (["a.crt", "a.key"], [("a.crt", "a.key")]),
        (["a.example.org.pem", "a.example.org.key"], [("a.example.org.pem", "a.example.org.key")]),
        (["a.pem", "a-key.pem"], [("a.pem", "a-key.pem")]),
        (["b-key.pem"], [("b-key.pem", "b-key.pem")]),
        (["x/fullchain.pem", "x/privkey.pem", "README"], [("x/fullchain.pem", "x/privkey.pem")]),
        (["fullchain.pem", "privkey.pem", "cert.pem", "chain.pem"], [("fullchain.pem", "privkey.pem")]),
        ([".a.pem", "b.pem", "b.pem.bak", "old/b.pem", "c.key"], [("b.pem", "b.pem")]),
    ],
)  # fmt: skip
def test_files_that_belong_together(tmp_path: Path, files: list[str], pairs: list[tuple[str, str]]) -> None:
    make(tmp_path, *files)
    assert names_in(tmp_path) == pairs
    assert set(files_of(Config(certificates=(tmp_path,)))) == {tmp_path / name for pair in pairs for name in pair}


def test_those_that_are_named_come_first_and_once(tmp_path: Path) -> None:
    make(tmp_path, "a.pem", "b.pem")
    pairs = key_pairs_of(Config(certificate=(tmp_path / "b.pem",), certificates=(tmp_path, tmp_path)))
    assert [each.certificate.name for each in pairs] == ["b.pem", "a.pem"]


def test_a_directory_without_any_is_a_mistake(tmp_path: Path) -> None:
    make(tmp_path, "README")
    with pytest.raises(ConfigError, match="expected a directory of certificates"):
        key_pairs_of(Config(certificates=(tmp_path,)))
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory"):
        key_pairs_of(Config(certificates=(tmp_path / "none",)))
    assert files_of(Config(certificates=(tmp_path / "none",))) == ()
