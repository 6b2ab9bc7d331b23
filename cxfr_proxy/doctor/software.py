"""The programs that nodes run, and the words by which they say so."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class ServerSoftware(StrEnum):
    """A server for which the settings that mend a fault are known."""

    EJABBERD = "ejabberd"
    PROSODY = "Prosody"
    MONGOOSEIM = "MongooseIM"
    OPENFIRE = "Openfire"

    @classmethod
    def named(cls, text: str | None) -> ServerSoftware | None:
        """Return the server that a text names: an answer to XEP-0092, or the ``node`` of capabilities (XEP-0115)."""
        lower = (text or "").lower()
        return next((software for sign, software in _SIGNS if sign in lower), None)


_SIGNS: Final = (
    ("mongooseim", ServerSoftware.MONGOOSEIM),  # first: an older one calls itself a fork of ejabberd
    ("ejabberd", ServerSoftware.EJABBERD),
    ("prosody", ServerSoftware.PROSODY),
    ("openfire", ServerSoftware.OPENFIRE),
    ("igniterealtime", ServerSoftware.OPENFIRE),
)
