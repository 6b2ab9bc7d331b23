"""The file in which a roll is kept, so that it outlives the process: beside the control socket, as its lock file is.

It is there as long as the roll is not over. Only this user can write where it is, as with the socket. It is written
some ten times for a roll of three nodes, and never waits for a disk: after a power cut no node is in the middle of
anything.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from cxfr_proxy.cluster.roll import RollRecord
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.files import read_file

_MOST_BYTES: Final = 1 << 20
"""A roll of ten thousand nodes has half of it."""


class RollFile:
    """The file for the proxy with that control socket."""

    def __init__(self, control: Path) -> None:
        self.path = Path(f"{control}.roll")

    def read(self) -> RollRecord | None:
        """Return the roll that is kept; ``None``: none is. Raises :class:`ConfigError` if it can't be read."""
        try:
            return msgspec.json.decode(read_file(self.path, max_bytes=_MOST_BYTES), type=RollRecord)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise ConfigError(f"{self.path}: {exc.strerror or exc}") from exc
        except msgspec.DecodeError as exc:
            raise ConfigError(f"{self.path}: expected a roll as cxfr-proxy keeps it: {exc}") from exc

    def write(self, record: RollRecord | None) -> None:
        """Keep that roll, in place of the one that is kept; ``None``: keep none.

        Raises :class:`OSError`, and then the file is as it was.
        """
        if record is None:
            self.path.unlink(missing_ok=True)
            return
        descriptor, temporary = tempfile.mkstemp(prefix=f"{self.path.name}.", dir=self.path.parent)  # its mode is 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(record))
            os.replace(temporary, self.path)
        except BaseException:
            os.unlink(temporary)
            raise
