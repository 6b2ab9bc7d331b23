"""Turn what Python itself would write to standard error into events: one line each, like everything else in the log.

======================= ================================================================================
``fault``               an exception that ends the process (``task=process``), or a thread (``task=thread``)
``unraisable``          an exception that nobody can catch: of a finalizer, or of a callback that C code calls
``log``                 a warning (:mod:`warnings`), like those of other libraries' loggers
======================= ================================================================================
"""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType

from cxfr_proxy.events import emit

_log = logging.getLogger(__name__)


def install() -> None:
    """Install the hooks. For a process that serves, whose log has been configured."""
    sys.excepthook = _on_exception
    sys.unraisablehook = _on_unraisable
    threading.excepthook = _on_thread
    logging.captureWarnings(True)


def _on_exception(kind: type[BaseException], exc: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, exc, traceback)
    else:
        emit(_log, "fault", level=logging.CRITICAL, exc_info=exc, task="process")


def _on_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        emit(_log, "fault", level=logging.ERROR, exc_info=args.exc_value, task="thread")


def _on_unraisable(args: sys.UnraisableHookArgs) -> None:
    """Name the object by its type: its own text may be a stranger's, and its ``repr`` may fail as well."""
    source = getattr(args.object, "__qualname__", None) or type(args.object).__qualname__
    error = f"{type(args.exc_value).__name__}: {args.exc_value}"
    emit(_log, "unraisable", level=logging.WARNING, source=str(source), error=error)
