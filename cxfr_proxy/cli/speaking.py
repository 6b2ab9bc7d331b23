"""Speaking to the proxy that runs: a command goes out, its answers are shown as they come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Final, NoReturn

import trio

from cxfr_proxy.admin.commands.table import Command
from cxfr_proxy.admin.control import client
from cxfr_proxy.admin.rows.answers import ReloadFaults
from cxfr_proxy.admin.rows.codec import read_answer
from cxfr_proxy.admin.rows.order_rows import DrainPlan, RollPlan
from cxfr_proxy.cli.exit_codes import FAULTS, INTERRUPTED, OK, UNFINISHED
from cxfr_proxy.cli.screen import PROGRESS, AnswerScreen, WatchScreen
from cxfr_proxy.errors import ConfigError, NoProxy

WATCH_SECONDS: Final = 2.0
"""Between two looks. Each asks all workers, for about a millisecond each."""


pause: Final = trio.sleep
"""Named, so that tests need not wait."""


class Conversation:
    """A command that is sent, and its answers. ``silence``: the seconds within which the proxy has to say something."""

    def __init__(self, silence: float = client.SILENCE_SECONDS) -> None:
        self._silence = silence

    async def hold(self, path: Path, command: str, given: Mapping[str, object], screen: AnswerScreen) -> object:
        """Send the command to the proxy on ``path`` and show its answers but for the last one, which is returned.

        Raises :class:`ConfigError`.
        """
        async with aclosing(client.call(path, command, given, self._silence)) as answers:
            async for answer in answers:
                if isinstance(answer, client.Result):
                    return answer.value
                if isinstance(answer, client.Interim):
                    screen.progress(answer.value)
                    self.on_progress(answer.value)
                else:
                    screen.note(answer.note)
        raise AssertionError("call() ends with a result or an error")

    def on_progress(self, value: object) -> None:
        """Act on progress that was shown, as decoded JSON."""


def speak(
    command: Command,
    flags: Mapping[str, object],
    find: Callable[[], Path],
    conversation: Conversation | None = None,
) -> int:
    """Send a command to the running proxy, whose socket ``find`` finds, and show its answers; return the exit code.

    ``conversation`` holds it, ``None``: one that does nothing else. Raises :class:`ConfigError`.
    """
    values = {each: flags[each.name] for each in command.arguments if flags[each.name] is not None}
    given = {each.name: True if each.stays else value for each, value in values.items()}
    command.read_arguments(given)  # a mistake needs no proxy to be told
    waited_for, as_json = command.is_waited_for(given), bool(flags["json"])
    if conversation is None:
        conversation = Conversation(client.SILENCE_SECONDS if command.mutates else client.LOOK_SECONDS)
    screen = AnswerScreen(sys.stdout, as_json, command.view)
    try:
        if flags.get("watch"):
            watched = WatchScreen(sys.stdout, as_json, command.view, title=command.name)
            trio.run(_watch, find, conversation, command.request(given), watched)
        result = trio.run(conversation.hold, find(), *command.request(given), screen)
    except KeyboardInterrupt:
        screen.end_line()
        if waited_for and command.goes_on is not None:
            print(f"cxfr-proxy: no longer watching; {command.goes_on.text.format(**given)}", file=sys.stderr)
        return INTERRUPTED
    except ConfigError:
        screen.end_line()
        raise
    screen.result(result)
    return _exit_code(result, waited_for=waited_for)


def _exit_code(result: object, *, waited_for: bool) -> int:
    answer = read_answer(result)
    if waited_for:
        return OK if isinstance(answer, PROGRESS) and answer.left == 0 else UNFINISHED
    if isinstance(answer, ReloadFaults):
        return FAULTS
    return UNFINISHED if isinstance(answer, DrainPlan | RollPlan) and answer.refuses_logins else OK


async def _watch(
    find: Callable[[], Path], conversation: Conversation, request: tuple[str, Mapping[str, object]], screen: WatchScreen
) -> NoReturn:
    """Show it again and again. A proxy that is gone once it was seen is waited for: it may be restarting."""
    seen = False
    while True:
        try:
            screen.result(await conversation.hold(find(), *request, screen))
            seen = True
        except NoProxy as exc:
            if not seen:
                raise
            screen.failed(str(exc))
        await pause(WATCH_SECONDS)
