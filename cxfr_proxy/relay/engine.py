"""The relay's engine: its hot path in C (``_turn.c``), or the pump alone.

The environment variable ``CXFR_ENGINE`` chooses it and the framer's (:mod:`cxfr_proxy.xmpp.framing`) together, for
tests and benches.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Final

from cxfr_proxy.engines import NATIVE, EngineChoice
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.net.tls_errors import WANTS, forget_errors
from cxfr_proxy.xmpp.framing import framer

if TYPE_CHECKING:
    from cxfr_proxy.relay._turn import Switchboard


def _load_native() -> type[Switchboard] | None:
    try:
        from cxfr_proxy.relay._turn import Switchboard
    except ImportError:
        return None  # it was not compiled here
    return Switchboard


ENGINE: Final = EngineChoice("relay", _load_native(), other="python")
"""The engine of pumps: one choice for the process, made before it serves."""


def use_from_environment() -> None:
    """Do what ``CXFR_ENGINE`` says: ``native``, ``python``, or nothing. Raises :class:`ConfigError`."""
    wanted = os.environ.get("CXFR_ENGINE")
    if not wanted:
        return
    try:
        ENGINE.use(wanted)
        framer.ENGINE.use(NATIVE if wanted == NATIVE else "expat")
    except ValueError as exc:
        raise ConfigError(f"CXFR_ENGINE: {exc}") from exc


def new_switchboard(epoll: select.epoll) -> Switchboard | None:
    """Return a switchboard for the sockets in that epoll; ``None`` if the pump serves all of them itself."""
    if ENGINE.native is None:
        return None
    return ENGINE.native(epoll.fileno(), WANTS, forget_errors)
