"""``cxfr-proxy roll``: watch a rolling restart, and run the command that restarts a node when its turn has come.

The command runs here, as the operator's own, and never in the proxy. It is run once for each node, without a shell; its
output goes to the standard error, so that the standard output has nothing but answers. A proxy that is restarted
meanwhile is waited for, and its roll goes on.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Final

import trio
from msgspec.structs import replace

from cxfr_proxy.admin.control import client
from cxfr_proxy.admin.rows.codec import as_json, read_answer
from cxfr_proxy.admin.rows.order_rows import RollProgress
from cxfr_proxy.cli.screen import AnswerScreen
from cxfr_proxy.cli.speaking import Conversation
from cxfr_proxy.cluster.roll import RollStep
from cxfr_proxy.errors import ConfigError, NoProxy

GONE_SECONDS: Final = 60.0
"""Seconds for a proxy that has gone to be there again: a service manager restarts it within some."""
_RETRY_SECONDS: Final = 0.2
_STDERR: Final = 2


class RollConversation(Conversation):
    """``run``: the command that restarts a node, as it was typed; ``None``: somebody restarts the nodes.

    Raises :class:`ConfigError` for a command that can't be run.
    """

    def __init__(self, run: object = None) -> None:
        super().__init__()
        self._restarts = NodeRestarts(_words(str(run))) if run is not None else None
        self._seen = False  # the proxy has said something since it was asked
        self._last: RollProgress | None = None

    async def hold(self, path: Path, command: str, given: Mapping[str, object], screen: AnswerScreen) -> object:
        if self._restarts is None:
            return await self._watch(path, command, given, screen)
        result: object = None
        failure: ConfigError | OSError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._restarts.run, path, screen)
                try:
                    result = await self._watch(path, command, given, screen)
                # Raised below, also that nobody reads the output: a command that runs is waited for, and not killed.
                except (ConfigError, OSError) as exc:
                    failure = exc
                self._restarts.end()
        except BaseExceptionGroup as group:
            raise next(_leaves(group)) from None
        if failure is not None:
            raise failure
        return result

    async def _watch(self, path: Path, command: str, given: Mapping[str, object], screen: AnswerScreen) -> object:
        gone_at: float | None = None
        while True:
            self._seen = False
            try:
                return await super().hold(path, command, given, screen)
            except NoProxy as exc:
                if self._seen:
                    gone_at = trio.current_time()
                    screen.note(f"{exc}; the roll goes on when it is there again")
                if gone_at is None or trio.current_time() >= gone_at + GONE_SECONDS:
                    raise
            except ConfigError as exc:
                if gone_at is None or self._last is None:
                    raise
                # It was restarted, and what it kept of the roll is lost: where it was is told here, or nowhere.
                return as_json(
                    replace(self._last, finished=True, given_up=True, reason=f"the proxy says: {exc.message}")
                )
            given = {"continue": True, "run": self._restarts is not None}
            await trio.sleep(_RETRY_SECONDS)

    def on_progress(self, value: object) -> None:
        self._seen = True
        row = read_answer(value)
        if not isinstance(row, RollProgress):
            return
        self._last = row
        if self._restarts is not None and not row.finished:
            self._restarts.turn_of(row.node if row.step == RollStep.RESTART else None)


class NodeRestarts:
    """Runs the command of these ``words`` for one node after the other."""

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._ended: dict[str, str | None] = {}  # by node: why the command has failed, None if it has not
        self._turn: str | None = None
        self._over = False
        self._changed = trio.Event()

    def turn_of(self, node: str | None) -> None:
        """Have that node restarted, unless it was; ``None``: none is to be restarted now."""
        self._turn = node
        self._changed.set()

    def end(self) -> None:
        """Have :meth:`run` return, once no command runs."""
        self._over = True
        self._changed.set()

    async def run(self, path: Path, screen: AnswerScreen) -> None:
        """Restart nodes and tell the proxy on ``path``, until :meth:`end`."""
        while not self._over:
            await self._changed.wait()
            self._changed = trio.Event()
            node, self._turn = self._turn, None
            if node is not None and not self._over:
                if node not in self._ended:
                    screen.end_line()
                    self._ended[node] = await self._restart(node)
                await self._tell(path, node, screen)

    async def _tell(self, path: Path, node: str, screen: AnswerScreen) -> None:
        """Tell the proxy how it went. One that has gone is told when it says once more that it is this node's turn."""
        failure = self._ended[node]
        if self._over:  # it ended while the command ran: another roll may go on by now, and this is no news of it
            screen.note(f"the roll was over when the command for {node} {_outcome(failure)}")
            return
        told = {"restarted": node} if failure is None else {"failed": failure}
        try:
            with suppress(NoProxy):
                async with aclosing(client.call(path, "roll", told)) as answers:
                    async for _ in answers:
                        pass
        except ConfigError as exc:
            screen.note(exc.message)

    async def _restart(self, node: str) -> str | None:
        """Run the command; return why it has failed, ``None`` if it has not."""
        words = [word.replace("{node}", node) for word in self._words]
        try:
            done = await trio.run_process(words, check=False, stdout=_STDERR)
        except OSError as exc:
            return f"{words[0]}: {exc.strerror or exc}"
        if done.returncode < 0:
            return f"{words[0]} was ended by signal {-done.returncode}"
        return f"{words[0]} has ended with exit code {done.returncode}" if done.returncode else None


def _outcome(failure: str | None) -> str:
    return "had ended" if failure is None else f"failed: {failure}"


def _words(command: str) -> list[str]:
    """Return the command's words. Raises :class:`ConfigError`."""
    try:
        words = shlex.split(command)
    except ValueError as exc:
        raise ConfigError(f"--run: expected a command as a shell reads it: {exc}") from exc
    if not words:
        raise ConfigError("--run: expected a command, found nothing")
    if "{node}" not in words[0] and shutil.which(words[0]) is None:
        raise ConfigError(f"--run: there is no program {words[0]!r:.80}")
    return words


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """Yield the exceptions in it, an interrupt first."""
    found: list[BaseException] = []
    for each in group.exceptions:
        found += list(_leaves(each)) if isinstance(each, BaseExceptionGroup) else [each]
    yield from sorted(found, key=lambda each: not isinstance(each, KeyboardInterrupt))
