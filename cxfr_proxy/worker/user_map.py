"""The user map as a worker gets it, in pieces."""

from __future__ import annotations

from array import array

from cxfr_proxy.cluster.user_map import UserMap
from cxfr_proxy.ipc.messages import BadMessage, Listed


class ReceivedUserMap:
    """Collects the pieces of the newest version."""

    def __init__(self) -> None:
        self._version = 0
        self._pieces: list[UserMap] = []

    def apply(self, told: Listed) -> UserMap | None:
        """Add a piece. Return the whole map with its last one. Raises :class:`BadMessage`."""
        if told.version < self._version:
            return None  # it was still on its way
        if told.version > self._version:
            self._version = told.version
            self._pieces = []
        # "Q" and "H" are as the supervisor packs them: both processes are on one machine.
        piece = UserMap(told.nodes, array("Q"), array("H"))
        try:
            piece.digests.frombytes(told.digests)
            piece.places.frombytes(told.places)
        except ValueError as exc:
            raise BadMessage("a user map that is cut off in the middle of a number") from exc
        if len(piece.digests) != len(piece.places) or any(place >= len(piece.nodes) for place in set(piece.places)):
            raise BadMessage("a user map that does not fit together")
        self._pieces.append(piece)
        if not told.last:
            return None
        pieces, self._pieces = self._pieces, []
        return UserMap.join(pieces)
