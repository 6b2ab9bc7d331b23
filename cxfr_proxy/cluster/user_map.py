"""Users and the nodes they belong on, in a file of one user per line, ``jid node``:

    # user                 node
    juliet@example.org     node1
    romeo@example.org      node2

There may be millions, and every process that serves clients has all of them. So it keeps not the names but a 64-bit
hash of each, sorted: ten bytes a user, where a dictionary of strings takes more than a hundred. A user who is not in
the file is mistaken for one who is with a probability of n in 2^64, and is then merely placed on another node.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final

from cxfr_proxy.cluster.nodes_file import NAME
from cxfr_proxy.cluster.words import Word, not_utf8, words_of
from cxfr_proxy.errors import ConfigError, FileFaults
from cxfr_proxy.spellings import user_key

MAX_FAULTS: Final = 50
"""Most faults in a message: nobody reads more of them, and the file may be another one by mistake."""
MAX_NODES: Final = 65_535
"""Most nodes in one file: a user's node is kept as two bytes."""
_LINE_BITS: Final = 32
_LINE_MASK: Final = (1 << _LINE_BITS) - 1


@dataclass(frozen=True, slots=True)
class UserMap:
    """``digests`` in ascending order, and beside each the place of its node in ``nodes``."""

    nodes: tuple[str, ...] = ()
    digests: array[int] = field(default_factory=lambda: array("Q"))
    places: array[int] = field(default_factory=lambda: array("H"))

    def __len__(self) -> int:
        return len(self.digests)

    def node_of(self, key: str) -> str | None:
        """Return the node of the user with that :func:`~cxfr_proxy.spellings.user_key`; ``None``: the file doesn't
        say."""
        digest = _digest(key)
        at = bisect_left(self.digests, digest)
        found = at < len(self.digests) and self.digests[at] == digest
        return self.nodes[self.places[at]] if found else None

    def pieces(self, size: int) -> Iterator[UserMap]:
        """Split the map into parts of ``size`` users, at least one part; :meth:`join` puts them together again."""
        for at in range(0, max(1, len(self)), size):
            yield UserMap(self.nodes, self.digests[at : at + size], self.places[at : at + size])

    @classmethod
    def join(cls, pieces: Iterable[UserMap]) -> UserMap:
        """Join the parts of one map, in their order."""
        whole = cls()
        for piece in pieces:
            whole = cls(piece.nodes, whole.digests, whole.places)
            whole.digests.extend(piece.digests)
            whole.places.extend(piece.places)
        return whole


def _digest(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


# --- the reader


def parse_user_map(lines: Iterable[bytes], file: str) -> UserMap:
    """Read a whole file; ``file`` is its path for the messages.

    Node names are not checked, since the list of nodes changes independently. Raises :class:`FileFaults` with the first
    :data:`MAX_FAULTS` faults.
    """
    reader = _Reader(file)
    for number, line in enumerate(lines, start=1):
        reader.read(number, line)
        if len(reader.faults) >= MAX_FAULTS:
            break
    return reader.end()


class _Reader:
    def __init__(self, file: str) -> None:
        self._file = file
        self._nodes: dict[str, int] = {}
        # The digest and the line's number, in one number. By the first byte, for to sort all at once takes most of a
        # second, in which no other thread of the process does anything.
        self._users: list[list[int]] = [[] for _ in range(256)]
        self._places = array("H", [0])  # by line
        self.faults: list[ConfigError] = []

    def read(self, number: int, line: bytes) -> None:
        place = 0
        try:
            text = line.decode().removeprefix("\ufeff") if number == 1 else line.decode()
            words = text.split()
            if words and not words[0].startswith("#"):
                if len(words) != 2:  # else it is as simple as it looks, and there are many
                    words = self._two_words(text, number)
                place = self._note(words[0], words[1], number, text)
        except UnicodeDecodeError as exc:
            self.faults.append(not_utf8(exc, self._file, number))
        except ConfigError as fault:
            self.faults.append(fault)
        self._places.append(place)

    def _two_words(self, text: str, number: int) -> list[str]:
        user, *rest = words_of(text, self._file, number)
        if not rest:
            raise user.part(len(user.text)).expected("a node's name after the user")
        if len(rest) > 1:
            raise rest[1].expected("one user and one node a line")
        return [user.text, rest[0].text]

    def _note(self, user: str, node: str, number: int, text: str) -> int:
        local, _, domain = user.partition("@")
        if not local or not domain or "/" in user or "@" in domain:
            raise self._word(0, text, number).expected("a bare JID like kim@example.org")
        place = self._nodes.get(node)
        if place is None:
            if not NAME.fullmatch(node):
                raise self._word(1, text, number).expected("a node's name")
            if len(self._nodes) >= MAX_NODES:
                raise self._word(1, text, number).fault(f"expected at most {MAX_NODES} different nodes")
            place = self._nodes[node] = len(self._nodes)
        digest = _digest(user_key(user))
        self._users[digest >> 56].append(digest << _LINE_BITS | number)
        return place

    def _word(self, index: int, text: str, number: int) -> Word:
        words = words_of(text, self._file, number)
        return words[index] if index < len(words) else words[0].part(len(words[0].text))

    def end(self) -> UserMap:
        for users in self._users:
            users.sort()
        self.faults += islice(self._doubles(), MAX_FAULTS - len(self.faults))
        if self.faults:
            raise FileFaults(sorted(self.faults, key=lambda fault: fault.line or 0))
        listed = UserMap(tuple(self._nodes))
        for users in self._users:
            listed.digests.extend(user >> _LINE_BITS for user in users)
            listed.places.extend(self._places[user & _LINE_MASK] for user in users)
            users.clear()
        return listed

    def _doubles(self) -> Iterator[ConfigError]:
        before = -1
        for user in chain.from_iterable(self._users):
            if user >> _LINE_BITS == before >> _LINE_BITS:
                first = before & _LINE_MASK
                yield ConfigError(
                    f"expected each user once, found it again (first on line {first})",
                    file=self._file,
                    line=user & _LINE_MASK,
                )
            else:
                before = user
