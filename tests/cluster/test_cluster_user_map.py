"""Files that say who belongs where."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxfr_proxy.cluster.sources.file import UserMapFile
from cxfr_proxy.cluster.user_map import MAX_FAULTS, UserMap, parse_user_map
from cxfr_proxy.errors import ConfigError, FileFaults
from cxfr_proxy.spellings import user_key


def read(text: str | bytes) -> UserMap:
    data = text.encode() if isinstance(text, str) else text
    return parse_user_map(data.splitlines(keepends=True), "users.txt")


def test_a_file() -> None:
    listed = read(
        "\ufeff# who                 where\r\n"
        "Juliet@Example.org      node1\r\n"
        "\r\n"
        "  jos\u00e9@example.org\tnode2  # at his own request\n"
        "#out@example.org node2\n"
        "a#b@example.org node1"
    )
    assert len(listed) == 3
    assert listed.nodes == ("node1", "node2")
    assert listed.node_of("juliet@example.org") == "node1"
    assert listed.node_of(user_key("JOSE\u0301@example.org")) == "node2"
    assert listed.node_of("a#b@example.org") == "node1"
    assert listed.node_of("out@example.org") is None
    assert len(read("")) == 0
    assert read("").node_of("kim@example.org") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kim@h", "users.txt:1:6: expected a node's name after the user, found nothing"),
        ("kim@h # n1", "users.txt:1:6: expected a node's name after the user, found nothing"),
        ("kim@h #n1", "users.txt:1:6: expected a node's name, found nothing"),
        ("\n kim@h n1 n2", "users.txt:2:11: expected one user and one node a line, found 'n2'"),
        ("kim n1", "users.txt:1:1: expected a bare JID like kim@example.org, found 'kim'"),
        ("  kim@h/phone n1", "users.txt:1:3: expected a bare JID like kim@example.org, found 'kim@h/phone'"),
        ("@h n1", "users.txt:1:1: expected a bare JID like kim@example.org, found '@h'"),
        ("kim@a@b n1", "users.txt:1:1: expected a bare JID like kim@example.org, found 'kim@a@b'"),
        ("kim@h -n", "users.txt:1:7: expected a node's name, found '-n'"),
        ("a@h n\nkim@h n1\nKim@H. n1", "users.txt:3: expected each user once, found it again (first on line 2)"),
        (b"a@h n\nkim@h \xff", "users.txt:2:7: expected UTF-8, found the byte 0xff"),
    ],
)
def test_faults_say_where(text: str | bytes, message: str) -> None:
    with pytest.raises(FileFaults) as caught:
        read(text)
    assert str(caught.value) == message


def test_all_faults_together_in_order_but_not_for_ever() -> None:
    with pytest.raises(FileFaults) as caught:
        read("a@h n\nkim\na@h n\nb@h\n")
    assert [fault.line for fault in caught.value.errors] == [2, 3, 4]
    with pytest.raises(FileFaults) as caught:
        read("no list of users\n" * 1000)
    assert len(caught.value.errors) == MAX_FAULTS
    with pytest.raises(FileFaults) as caught:
        read("a@h n\n" * 1000)
    assert len(caught.value.errors) == MAX_FAULTS


names = st.text(st.characters(categories=["L", "Nd"]), min_size=1, max_size=6).filter(
    lambda name: " " not in user_key(f"{name}@h")  # a few letters are made of a space and a mark: no names (RFC 8265)
)


@given(st.dictionaries(names, st.sampled_from("abc"), max_size=20), st.lists(names, max_size=20), st.integers(1, 7))
def test_against_a_dictionary(users: dict[str, str], others: list[str], size: int) -> None:
    by_key = {user_key(f"{user}@h"): node for user, node in users.items()}
    listed = read("".join(f"{key} {node}\n" for key, node in by_key.items()))
    listed = UserMap.join(listed.pieces(size))
    for name in [*users, *others]:
        key = user_key(f"{name}@h")
        assert listed.node_of(key) == by_key.get(key)


async def test_the_file_is_followed(tmp_path: Path, autojump_clock: object) -> None:
    path = tmp_path / "users.txt"
    path.write_text("a@h n1\n")
    file = UserMapFile(path)
    assert file.load().node_of("a@h") == "n1"
    path.write_text("a@h n1\nb@h n2\n")
    await file.wait_changed()
    assert file.load().node_of("b@h") == "n2"
    path.unlink()
    with pytest.raises(ConfigError, match="expected a readable list of users, found: No such file"):
        file.load()
