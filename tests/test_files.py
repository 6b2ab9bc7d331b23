"""The operator's files: what is none is not waited for."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from certificates import served

from cxfr_proxy.cluster.addresses import Address
from cxfr_proxy.cluster.backends import EtcdBackends, parse_url
from cxfr_proxy.cluster.nodes import NodeSpec, NodeTls
from cxfr_proxy.cluster.sources.etcd import EtcdSource
from cxfr_proxy.cluster.sources.file import NodesFile, UserMapFile
from cxfr_proxy.config.settings import read_settings_file
from cxfr_proxy.config.table import SETTINGS, KeyPair
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.files import content_as_path, open_file, read_file
from cxfr_proxy.net.node_tls import node_context, read_authorities
from cxfr_proxy.net.tls import development_certificate


def a_fifo(path: Path) -> str:
    os.mkfifo(path)
    return "It is a FIFO, and no file"


def a_device(path: Path) -> str:
    path.symlink_to("/dev/zero")
    return "It is a device, and no file"


def a_socket(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    return "No such device or address"


def a_directory(path: Path) -> str:
    path.mkdir()
    return "Is a directory"


def nothing(path: Path) -> str:
    return "No such file or directory"


def a_circle(path: Path) -> str:
    path.symlink_to(path)
    return "Too many levels of symbolic links"


KINDS = [a_fifo, a_device, a_socket, a_directory, nothing, a_circle]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_named(tmp_path: Path, kind: Callable[[Path], str]) -> None:
    path = tmp_path / "x"
    with pytest.raises(OSError, match=kind(path)):
        open_file(path)


def test_a_file_that_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert read_file(path, max_bytes=5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_file(path, max_bytes=4)


def test_content_has_a_path_for_a_while() -> None:
    with content_as_path(b"content") as path:
        assert Path(path).read_bytes() == b"content"
    assert not Path(path).exists()


READERS: dict[str, Callable[[Path], object]] = {
    "nodes": lambda path: NodesFile(path).load(),
    "user map": lambda path: UserMapFile(path).load(),
    "settings": lambda path: read_settings_file(str(path), SETTINGS),
    "ca": lambda path: _authorities(NodeSpec("n", Address("a", 1), tls=NodeTls.DIRECT, ca=str(path))),
    "certificate": lambda path: served([KeyPair(path, path)]),
    "etcd's ca": lambda path: _etcd(f"etcds://127.0.0.1:1/p?ca={path}"),
    "etcd's password": lambda path: _etcd(f"etcd://user@127.0.0.1:1/p?password-file={path}"),
}


def _authorities(spec: NodeSpec) -> object:
    return node_context(spec, read_authorities(spec)).get_ca_certs()


def _etcd(url: str) -> EtcdSource:
    backends = parse_url(url)
    assert isinstance(backends, EtcdBackends)
    return EtcdSource(backends, identity="one")


@pytest.mark.parametrize("reader", READERS)
def test_nobody_waits_for_a_fifo(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="It is a FIFO, and no file"):
        READERS[reader](path)


_PEM = development_certificate(["example.org"])
CONTENTS = {
    "nodes": b"a 127.0.0.1\n",
    "user map": b"kim@example.org a\n",
    "settings": b"max-depth = 9\n",
    "ca": _PEM[_PEM.index(b"-----BEGIN CERTIFICATE") :],
    "certificate": _PEM,
    "etcd's ca": _PEM[_PEM.index(b"-----BEGIN CERTIFICATE") :],
    "etcd's password": b"open sesame\r\n",
}


@pytest.mark.parametrize("reader", READERS)
def test_a_byte_order_mark_is_no_part_of_any_file(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xef\xbb\xbf" + CONTENTS[reader])
    assert READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
def test_other_encodings_than_utf8_are_told(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENTS[reader].decode().encode("utf-16"))
    with pytest.raises(ConfigError, match=r"UTF-8|PEM"):
        READERS[reader](path)
