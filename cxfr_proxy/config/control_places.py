"""Where the control socket is: of a proxy that was told of none, and for a command that looks for a proxy."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cxfr_proxy.errors import NoProxy


def control_places(environ: Mapping[str, str], uid: int, temporary: Path) -> list[Path]:
    """Return the places where a proxy's control socket may be, the place for a new one first.

    A proxy takes the first. A command looks at all of them, in this order: an operator's login has another environment
    than the service. ``temporary`` is the directory for temporary files, of which only a directory of the user's own is
    used.
    """
    if explicit := environ.get("CXFR_PROXY_CONTROL"):
        return [Path(explicit)]
    places = []
    if runtime := environ.get("RUNTIME_DIRECTORY"):  # systemd.exec(5): a colon-separated list
        places.append(Path(runtime.split(":", 1)[0]) / "control.sock")
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        places.append(Path(runtime) / "cxfr-proxy.sock")
    if uid != 0:
        places.append(temporary / f"cxfr-proxy-{uid}" / "control.sock")
    return [*places, Path("/run/cxfr-proxy.sock"), Path("/run/cxfr-proxy/control.sock")]


def default_control() -> Path:
    """Return the control socket of a proxy that was given none."""
    return control_places(os.environ, os.geteuid(), Path(tempfile.gettempdir()))[0]


def find_control() -> Path:
    """Return the control socket that a command should try: the first on which a proxy listens; else the first there is,
    which a proxy that died has left behind. Raises :class:`NoProxy`, with all places, where there is none.

    A directory under the temporary one counts only if it is the user's own: anybody could have made it.
    """
    uid = os.geteuid()
    places = control_places(os.environ, uid, Path(tempfile.gettempdir()))
    found = [place for place in places if _is_control(place, uid)]
    if not found:
        raise NoProxy(
            f"no proxy runs here: there is no control socket {' or '.join(map(str, places))}; its log says where it "
            "listens (control-listening), for --control PATH"
        )
    return next(filter(_is_listened_to, found), found[0])


def _is_control(place: Path, uid: int) -> bool:
    try:
        place.lstat()
        return place.parent.name != f"cxfr-proxy-{uid}" or place.parent.lstat().st_uid == uid
    except OSError:
        return False


def _is_listened_to(place: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(place))
        except BlockingIOError:
            return True  # its queue is full
        except OSError as exc:
            return exc.errno in (errno.EACCES, errno.EPERM)  # somebody else's
    return True
