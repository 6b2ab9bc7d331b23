"""The choice of engines: those in C, or those in Python, which do the same where there is no compiler.

Two parts of the proxy are written in C as well: the framer (:mod:`cxfr_proxy.xmpp.framing`) and the relay's hot path
(``_turn.c``). The environment variable ``CXFR_ENGINE`` chooses for both, for tests and benches.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Final

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


_native: Final = _load_native()

ENGINES: Final = ("native", "python") if _native is not None else ("python",)
"""The engines of the relay loop that there are, the fastest first."""
ENGINE = ENGINES[0]
"""The engine that runs; see :func:`use`."""


def use(engine: str) -> None:
    """Use that engine for pumps made from now on. Raises ``ValueError`` where there is no such engine here."""
    global ENGINE  # one choice for the process, made before it serves
    if engine not in ENGINES:
        raise ValueError(f"no relay engine '{engine}' here, only {', '.join(ENGINES)}")
    ENGINE = engine


def use_from_environment() -> None:
    """Do what ``CXFR_ENGINE`` says: ``native``, ``python``, or nothing. Raises :class:`ConfigError`."""
    wanted = os.environ.get("CXFR_ENGINE")
    if not wanted:
        return
    try:
        use(wanted)
        framer.use("native" if wanted == "native" else "expat")
    except ValueError as exc:
        raise ConfigError(f"CXFR_ENGINE: {exc}") from exc


def new_switchboard(epoll: select.epoll) -> Switchboard | None:
    """Return a switchboard for the sockets in that epoll; ``None`` if the pump serves all of them itself."""
    if _native is None or ENGINE != "native":
        return None
    return _native(epoll.fileno(), WANTS, forget_errors)
