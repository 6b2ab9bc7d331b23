"""The user map on its way: from the file, and in pieces to workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace
from trio.testing import wait_all_tasks_blocked

from cxfr_proxy.admin.console.reloads import Reloads
from cxfr_proxy.cluster.assigned import Assigned
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes_file import parse_nodes
from cxfr_proxy.cluster.sources.file import UserMapFile
from cxfr_proxy.cluster.user_map import UserMap, parse_user_map
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.ipc.codec import decode, encode
from cxfr_proxy.ipc.messages import BadMessage, Listed
from cxfr_proxy.supervisor.reading import user_list as listing
from cxfr_proxy.supervisor.reading.user_list import UserList
from cxfr_proxy.worker.user_map import ReceivedUserMap

MAP = "".join(f"user{number}@h n{number % 3}\n" for number in range(10))


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "USERS_A_PIECE", 4)


class Follower:
    """Notes how many users were read, each time."""

    def __init__(self, assigned: Assigned, read: list[int]) -> None:
        self._assigned = assigned
        self._read = read

    def users_read(self) -> None:
        self._read.append(len(self._assigned.listed))


def users_of(path: Path, changed: list[int] | None = None) -> tuple[UserList, Assigned]:
    assigned = Assigned()
    told = changed if changed is not None else []
    cluster = Cluster(parse_nodes("n0 h\nn1 h\nn2 h\n", "n"))
    users = UserList(UserMapFile(path, 0.01), assigned, cluster, Follower(assigned, told), Reloads())
    return users, assigned


def pieces(tmp_path: Path, text: str) -> tuple[list[Listed], UserMap]:
    path = tmp_path / "users.txt"
    path.write_text(text)
    users, assigned = users_of(path)
    return list(users.pieces()), assigned.listed


@pytest.mark.parametrize("text", [MAP, "", "a@h n0\n"])
def test_what_is_told_in_pieces_is_the_map(tmp_path: Path, text: str) -> None:
    told, listed = pieces(tmp_path, text)
    assert [piece.last for piece in told] == [False] * (len(told) - 1) + [True]
    to = ReceivedUserMap()
    heard = [to.apply(message) for message in map(decode, map(encode, told)) if isinstance(message, Listed)]
    assert heard[:-1] == [None] * (len(told) - 1)
    assert heard[-1] == listed


def test_a_newer_version_in_the_middle_of_an_older_one(tmp_path: Path) -> None:
    old, _ = pieces(tmp_path, MAP)
    new, listed = pieces(tmp_path, "a@h n0\nb@h n1\nc@h n1\nd@h n1\ne@h n2\n")
    new = [replace(piece, version=piece.version + 1) for piece in new]
    to = ReceivedUserMap()
    heard = [to.apply(piece) for piece in (old[0], new[0], old[1], new[1], old[2])]
    assert heard == [None, None, None, listed, None]
    again = [to.apply(piece) for piece in new]  # to a worker that has begun meanwhile
    assert again[-1] == listed


def test_what_does_not_fit_together_is_refused() -> None:
    eight, two = bytes(8), bytes(2)
    for digests, places, nodes in (
        (b"!", two, ("n",)),
        (eight, eight, ("n",)),
        (eight, two, ()),
        (bytes(3), two, ("n",)),
    ):
        with pytest.raises(BadMessage):
            ReceivedUserMap().apply(Listed(1, nodes, digests, places, last=True))
    whole = ReceivedUserMap().apply(Listed(1, ("n",), eight, two, last=True))
    assert whole is not None
    assert len(whole) == 1


async def test_a_file_with_faults_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "users.txt"
    path.write_text("kim@h n1\n")
    changed: list[int] = []
    users, assigned = users_of(path, changed)
    path.write_text("kim@h n2\nsam\n")
    with pytest.raises(ConfigError, match=r"users.txt:2:4: expected a node's name"):
        await users.read(path)
    assert assigned.node_of("kim@h") == "n1"
    path.write_text("kim@h n2\n")
    read = await users.read(path)
    assert assigned.node_of("kim@h") == "n1"
    users.take(read)
    assert assigned.node_of("kim@h") == "n2"
    assert changed == [1, 1]


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - a thread is waited for
        await trio.sleep(0.001)


async def test_what_was_read_and_not_taken_is_read_once_more(tmp_path: Path) -> None:
    path = tmp_path / "users.txt"
    path.write_text("kim@h n1\n")
    users, assigned = users_of(path)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(users.watch)
            async with users.being_read:
                path.write_text("kim@h n2\n")
                await users.read(path)
                users.unread()
            await _until(lambda: assigned.node_of("kim@h") == "n2")
            nursery.cancel_scope.cancel()


async def test_another_file_is_followed_from_then_on(tmp_path: Path) -> None:
    first, second = tmp_path / "users.txt", tmp_path / "more.txt"
    first.write_text("kim@h n1\n")
    second.write_text("kim@h n2\n")
    users, assigned = users_of(first)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(users.watch)
            await wait_all_tasks_blocked()
            users.take(await users.read(second))
            assert assigned.node_of("kim@h") == "n2"
            second.write_text("kim@h n0\n")
            await _until(lambda: assigned.node_of("kim@h") == "n0")
            users.take(None)
            assert assigned.node_of("kim@h") is None
            (piece,) = users.pieces()
            assert (piece.last, piece.digests) == (True, b"")
            nursery.cancel_scope.cancel()


async def test_without_a_file_there_is_nothing_to_do() -> None:
    assigned = Assigned()
    assigned.listed = parse_user_map([b"kim@h n1"], "u")
    users = UserList(None, assigned, Cluster(), Follower(assigned, []), Reloads())
    users.take(await users.read(None))
    assert list(users.pieces()) == []
