"""Errors by whose fault they are.

Three parties can be wrong, and each needs another answer. The operator gets a line that says where the fault is and
what was expected, and the proxy goes on as it was. A client or a node gets a stream error (RFC 6120), and only its own
session ends. Any other exception is a defect of this program.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType


class CxfrProxyError(Exception):
    """The root of everything this package raises on purpose."""


class ConfigError(CxfrProxyError):
    """The operator's input is unusable.

    ``file`` is the path as the operator wrote it, ``line`` and ``column`` count from 1; each is ``None`` where the
    fault has no such place (a command-line flag, say). ``str()`` gives ``file:line:column: message``.
    """

    def __init__(
        self, message: str, *, file: str | None = None, line: int | None = None, column: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.line = line
        self.column = column

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        return f"{place}: {self.message}" if place else self.message

    @property
    def errors(self) -> tuple[ConfigError, ...]:
        """The faults one by one."""
        return (self,)


class FileFaults(ConfigError):
    """Several faults: of a file, in file order, or of several files; each once, although a file that is named for two
    purposes is read twice. ``str()`` has one a line."""

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        self._errors = tuple({str(each): each for each in errors}.values())
        first = self._errors[0]
        super().__init__(first.message, file=first.file, line=first.line, column=first.column)

    def __str__(self) -> str:
        return "\n".join(map(str, self._errors))

    @property
    def errors(self) -> tuple[ConfigError, ...]:
        return self._errors


class FaultList:
    """Collects the operator's faults, so that they can mend all of them at once::

        faults = FaultList()
        for path in paths:
            with faults:
                read(path)
        faults.check()

    A fault ends its block, and no other one.
    """

    def __init__(self) -> None:
        self.errors: list[ConfigError] = []

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if isinstance(exc, ConfigError):
            self.errors += exc.errors
            return True
        return False

    def check(self) -> None:
        """Raise :class:`FileFaults` if there are any."""
        if self.errors:
            raise FileFaults(self.errors)


class WorkerRefusal(ConfigError):
    """A worker can't use what the supervisor has found good: it lacks something, or gives no answer."""


class NoSuchSession(ConfigError):
    """No session is there that a command could be about, as far as workers have answered."""


class NoProxy(ConfigError):
    """No proxy runs where a command looks for one, or it does not answer."""


class RemoteError(CxfrProxyError):
    """A remote party broke the protocol; carries the stream error that answers it.

    ``condition`` is a defined condition of RFC 6120 section 4.9.3 (:class:`cxfr_proxy.xmpp.names.StreamCondition`).
    ``text`` is sent to the remote, so it never holds what another party said, nor a secret.
    """

    def __init__(self, condition: str, text: str) -> None:
        super().__init__(f"{condition}: {text}")
        self.condition = condition
        self.text = text


class ClientError(RemoteError):
    """The client's fault, answered on the client's stream."""


class NodeError(RemoteError):
    """The node's fault, or its absence; the client is told ``condition``."""


class DomainRefused(NodeError):
    """The node doesn't serve that domain, or has no certificate for it. If a client has named the domain, this says
    nothing of the node."""


class NoRoom(NodeError):
    """No connection to the node could be begun, since this machine is short of something. This says nothing of the
    node."""
