"""THE table of what an operator can say to a running proxy.

A command is a row: its name, its arguments, whether it changes anything, and the function that carries it
out. The command line's parser, its help and the control socket's checks are drawn from :data:`COMMANDS`, so a
new command is one row and one function.

A function gets :class:`Operations` (what the running proxy can do), its checked arguments and ``report``, a
channel for progress; what it returns is the answer. Whoever waits may go away at any moment: that cancels the
waiting and nothing else, which holds because ``Operations`` starts things without waiting for them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, cast

from cxfr_proxy.admin.rows import (
    Answer,
    DrainPlan,
    DrainProgress,
    Message,
    NodeRow,
    Note,
    PinRow,
    Progress,
    ProxyRow,
    RebalancePlan,
    RebalanceProgress,
    RestartProgress,
    Returning,
    SessionRow,
    SourceRow,
    TransferRow,
    WorkerRow,
)
from cxfr_proxy.config import values
from cxfr_proxy.config.values import Kind
from cxfr_proxy.errors import ConfigError

__all__ = ["COMMANDS", "Answer", "Argument", "Command", "Operations", "Report", "command_named", "execute"]


class Operations(Protocol):
    """What the running proxy can do for its operator."""

    def drain(self, node: str, *, grace: float | None, deadline: float | None, rate: float | None, force: bool) -> None:
        """Place nobody on ``node``, and start moving everybody off it when ``grace`` is over; returns at once.

        ``grace`` and ``deadline`` in seconds from now, ``None`` for none; ``rate`` in transfers per second,
        ``None`` for the setting. Again for the same node: the drain goes on, with what is given anew. Raises
        :class:`ConfigError` for an unknown node, a deadline within the grace, and, unless ``force``, where
        :meth:`refused_without` says something.
        """

    def refused_without(self, node: str) -> str | None:
        """Whose logins no other node would take if this one took none: ``every login``, or ``every login for`` some
        domains; ``None``: there are others for all of them. Raises :class:`ConfigError` for an unknown node."""

    async def plan_drain(
        self, node: str, *, grace: float | None, deadline: float | None, rate: float | None
    ) -> DrainPlan:
        """What :meth:`drain` would come to. Changes nothing. Raises like it."""

    def abort(self, node: str) -> None:
        """Move nobody off ``node`` any more, and still place nobody there; :meth:`drain` goes on. Raises
        :class:`ConfigError` for an unknown node, or one that isn't drained."""

    def undrain(self, node: str, *, rebalance: bool) -> None:
        """Stop a drain and place clients on ``node`` again. Nothing if it isn't drained.

        ``rebalance``: who belongs there may be moved there by itself; else only by a later rebalance. Raises
        :class:`ConfigError` for an unknown node, or one whose line is gone.
        """

    async def plan_return(self, node: str) -> Returning:
        """What follows from an :meth:`undrain`. Raises :class:`ConfigError` for an unknown node."""

    def caveat(self) -> str | None:
        """What an operator has to know who has just given an order for all proxies: that only this one has heard it,
        say. ``None``: nothing."""

    def wait_drained(self, node: str) -> AsyncGenerator[DrainProgress, None]:
        """Progress about five times a second, and once more on the end; then it stops by itself.

        Raises :class:`ConfigError` for an unknown node, or one that isn't drained. Closing it ends the
        waiting only.
        """

    def rebalance(self, *, rate: float | None, max_share: float | None) -> None:
        """Start moving those who are elsewhere than they belong, in place of a rebalance that goes on; returns at once.

        ``rate`` in transfers per second, ``None`` for the setting; ``max_share``: at most so many percent of each
        node's sessions, ``None``: all that have to.
        """

    async def plan_rebalance(self, *, rate: float | None, max_share: float | None) -> RebalancePlan:
        """What :meth:`rebalance` would come to. Changes nothing."""

    def stop_rebalance(self) -> None:
        """Ask nobody more. Raises :class:`ConfigError` where none goes on."""

    def wait_rebalanced(self) -> AsyncGenerator[RebalanceProgress, None]:
        """Progress of the latest one, about five times a second, and once more on the end; then it stops by itself.

        Raises :class:`ConfigError` where there was none. Closing it ends the waiting only.
        """

    async def move(self, address: str, node: str) -> int:
        """Send the clients of that JID, bare or full, to ``node``, at once; how many were told.

        Raises :class:`ConfigError` for an unknown node or one that can't take them, and where there is no such client,
        or none that is elsewhere.
        """

    async def nodes(self) -> list[NodeRow]:
        """All nodes in the list's order."""

    async def sessions(self) -> list[SessionRow]:
        """All sessions, oldest first."""

    async def transfers(self) -> list[TransferRow]:
        """Running and recent transfers, newest last."""

    def pin(self, user: str, node: str) -> None:
        """Place the clients of ``user``, a bare JID, on ``node`` from now on. The next rebalance moves who is online.

        Raises :class:`ConfigError` for an unknown node, one that doesn't serve his domain, or too many pins.
        """

    def unpin(self, user: str) -> None:
        """Place him as if there had been no pin. Raises :class:`ConfigError` where there was none."""

    async def pins(self) -> list[PinRow]:
        """All pins, by user."""

    def omissions(self) -> list[str]:
        """What is missing from the answers that were given last, a sentence each."""

    async def workers(self) -> list[WorkerRow]:
        """The processes that serve clients, by number; both of a number while one takes over from the other."""

    async def source(self) -> list[SourceRow]:
        """Where the nodes come from: one row."""

    async def proxies(self) -> list[ProxyRow]:
        """The proxies that share their nodes with this one, which is among them."""

    async def reload(self) -> str:
        """Read nodes, user map and certificates again; what was done, in one sentence.

        Raises :class:`ConfigError`, and then nothing has changed.
        """

    def restart_workers(self) -> None:
        """Start replacing all workers, one by one; returns at once. Again while it goes on: nothing new.

        Raises :class:`ConfigError` where there are no workers, or the proxy is stopping.
        """

    def wait_restarted(self) -> AsyncGenerator[RestartProgress, None]:
        """Progress about five times a second, and once more on the end; then it stops by itself.

        Raises :class:`ConfigError` where workers were never being replaced. Closing it ends the waiting only.
        """


Report = Callable[[Progress | Note], Awaitable[None]]
"""Tell whoever waits how far it is, or what is to be known of the answer; may block, and may raise when nobody waits
any more."""

Arguments = Mapping[str, Any]  # each value is what its Argument's kind gives; the commands below cast
Run = Callable[[Operations, Arguments, Report], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument. ``kind`` is ``None`` for a switch, which is there or not; ``positional`` ones are
    required."""

    name: str
    help: str
    kind: Kind[Any] | None = None
    positional: bool = False
    choices: tuple[str, ...] = ()
    """Empty: whatever ``kind`` takes."""

    def read(self, value: object) -> object:
        """The argument's value from text or JSON; ``None`` where an option wasn't given. Raises
        ConfigError."""
        if self.kind is None:
            if value is None or isinstance(value, bool):
                return bool(value)
            raise ConfigError(f"{self.name}: expected true or false, found {value!r:.80}")
        if value is None:
            if self.positional:
                raise ConfigError(f"{self.name}: expected {self._expected()}, found nothing")
            return None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ConfigError(f"{self.name}: expected {self._expected()}, found {value!r:.80}")
        if self.choices and value not in self.choices:
            raise ConfigError(f"{self.name}: expected {self._expected()}, found {value!r:.80}")
        try:
            return self.kind.parse(str(value))
        except ConfigError as exc:
            raise ConfigError(f"{self.name}: {exc.message}") from exc

    def _expected(self) -> str:
        if self.choices:
            return " or ".join(self.choices)
        return self.kind.expected if self.kind is not None else "true or false"


@dataclass(frozen=True, slots=True)
class Command:
    """One thing to say. ``mutates`` is false where asking changes nothing."""

    name: str
    help: str
    arguments: tuple[Argument, ...]
    mutates: bool
    run: Run
    goes_on: str = ""
    """Where it can be waited for: what to say to somebody who stops waiting. Arguments stand in it as ``{node}``."""

    def read_arguments(self, given: Mapping[str, object]) -> Arguments:
        """All arguments by name, checked. Raises :class:`ConfigError` for one that is wrong, missing or
        unknown."""
        known = {argument.name for argument in self.arguments}
        for name in given:
            if name not in known:
                raise ConfigError(f"{self.name}: unknown argument {name!r:.80}")
        try:
            return {each.name: each.read(given.get(each.name)) for each in self.arguments}
        except ConfigError as exc:
            raise ConfigError(f"{self.name}: {exc.message}") from exc


async def _drain(operations: Operations, arguments: Arguments, report: Report) -> Answer:
    node = cast("str", arguments["node"])
    terms = {name: arguments[name] for name in ("grace", "deadline", "rate")}
    if arguments["plan"]:
        if arguments["wait"]:
            raise ConfigError("drain: with plan nothing begins, so there is nothing to wait for")
        return await operations.plan_drain(node, **terms)
    refused = operations.refused_without(node)
    operations.drain(node, **terms, force=bool(arguments["force"]))
    if not arguments["wait"]:
        cost = f"; {refused} is refused until another node is ready and up" if refused is not None else ""
        return _message(operations, f"{node} is being drained{cost}")
    last: DrainProgress | None = None
    async with aclosing(operations.wait_drained(node)) as rows:
        async for last in rows:
            await report(last)
    if last is None:
        raise ConfigError(f"the drain of {node} ended before it could be watched")
    return last


async def _undrain(operations: Operations, arguments: Arguments, report: Report) -> Answer:
    node = cast("str", arguments["node"])
    rebalance = not arguments["no-rebalance"]
    operations.undrain(node, rebalance=rebalance)
    row = await operations.plan_return(node)
    follows = _what_follows(row if rebalance else replace(row, begins_in=None))
    return _message(operations, f"{node} takes clients again{follows}")


def _what_follows(row: Returning) -> str:
    """Who is moved there, and when."""
    if not row.up:
        when = "some time after that" if row.begins_in is not None else "by the next rebalance"
        return f" when it is up; who belongs there is moved {when}"
    if not row.to_move:
        return "; everybody is where they belong"
    who = "1 session is" if row.to_move == 1 else f"{row.to_move} sessions are"
    if row.begins_in is None:
        return f"; {who} left elsewhere than they belong until the next rebalance"
    held = f", {row.held} of them later (they were moved less than redirect-window ago)" if row.held else ""
    return f"; {who} moved to where they belong in {row.begins_in:.0f} s{held}; undrain --no-rebalance leaves them"


def _message(operations: Operations, done: str) -> Message:
    caveat = operations.caveat()
    return Message(f"{done} ({caveat})" if caveat is not None else done)


async def _abort(operations: Operations, arguments: Arguments, report: Report) -> Answer:
    node = cast("str", arguments["node"])
    operations.abort(node)
    return _message(operations, f"the drain of {node} is stopped; who is there stays, and nobody new comes")


async def _pin(operations: Operations, arguments: Arguments, report: Report) -> Answer:
    user, node = cast("str", arguments["jid"]), cast("str", arguments["node"])
    operations.pin(user, node)
    return _message(
        operations,
        f"{user} is placed on {node} from now on; a rebalance moves who is elsewhere (show pins)",
    )


async def _unpin(operations: Operations, arguments: Arguments, report: Report) -> Answer:
    user = cast("str", arguments["jid"])
    operations.unpin(user)
    return _message(operations, f"{user} is placed like everybody else again")


async def _rebalance(operations: Operations, arguments: Arguments, report: Report) -> Answer:
    terms = {"rate": arguments["rate"], "max_share": arguments["max-share"]}
    if sum(map(bool, (arguments["plan"], arguments["wait"], arguments["stop"]))) > 1:
        raise ConfigError("rebalance: expected one of plan, wait and stop")
    if arguments["plan"]:
        return await operations.plan_rebalance(**terms)
    if arguments["stop"]:
        operations.stop_rebalance()
        return Message("the rebalance is stopped; who was asked already may still go")
    operations.rebalance(**terms)
    if not arguments["wait"]:
        return Message("who is elsewhere than he belongs is being moved")
    last: RebalanceProgress | None = None
    async with aclosing(operations.wait_rebalanced()) as rows:
        async for last in rows:
            await report(last)
    if last is None:
        raise ConfigError("the rebalance ended before it could be watched")
    return last


async def _move(operations: Operations, arguments: Arguments, report: Report) -> Answer:
    address, node = cast("str", arguments["jid"]), cast("str", arguments["node"])
    moved = await operations.move(address, node)
    return Message(f"{moved} client{'s' * (moved != 1)} of {address} told to move to {node}")


async def _restart_workers(operations: Operations, arguments: Arguments, report: Report) -> Answer:
    operations.restart_workers()
    if not arguments["wait"]:
        return Message("the workers are being replaced")
    last: RestartProgress | None = None
    async with aclosing(operations.wait_restarted()) as rows:
        async for last in rows:
            await report(last)
    if last is None:
        raise ConfigError("the workers were replaced before it could be watched")
    return last


async def _show(operations: Operations, arguments: Arguments, report: Report) -> Answer:
    return await _VIEWS[arguments["what"]](operations)


async def _reload(operations: Operations, arguments: Arguments, report: Report) -> Answer:
    return Message(await operations.reload())


_VIEWS: Final[Mapping[str, Callable[[Operations], Awaitable[Answer]]]] = {
    "nodes": lambda operations: operations.nodes(),
    "sessions": lambda operations: operations.sessions(),
    "transfers": lambda operations: operations.transfers(),
    "pins": lambda operations: operations.pins(),
    "workers": lambda operations: operations.workers(),
    "source": lambda operations: operations.source(),
    "proxies": lambda operations: operations.proxies(),
}

_NODE: Final = Argument("node", "the node's name", Kind("a node's name", "NODE", values.TEXT.read), positional=True)
_JID: Final = Argument("jid", "the user's bare JID", values.BARE_JID, positional=True)

COMMANDS: Final = (
    Command(
        "drain",
        "move all clients off a node, and place no new ones there",
        (
            _NODE,
            Argument(
                "plan", "change nothing; show how many clients there are, where they would go, and how long it takes"
            ),
            Argument("wait", "show progress until the node is empty, or the deadline has passed"),
            Argument(
                "grace",
                "place nobody there at once, but move nobody before this time: for a load balancer to notice",
                values.seconds(zero=True),
            ),
            Argument(
                "deadline",
                "after this time, close the clients that are left without asking; inactive ones (XEP-0352) are not"
                " asked in its first half",
                values.seconds(zero=False),
            ),
            Argument("rate", "clients to move per second, instead of transfer-rate", values.RATE),
            Argument("force", "also where no other node is ready and up, so that logins are refused"),
        ),
        mutates=True,
        run=_drain,
        goes_on="the drain of {node} goes on (show nodes tells how far it is, abort {node} stops it)",
    ),
    Command(
        "abort",
        "stop a drain where it is: who is there stays there, and nobody new comes; drain again to go on",
        (_NODE,),
        mutates=True,
        run=_abort,
    ),
    Command(
        "undrain",
        "stop a drain and let the node take clients again; who belongs there is moved there soon, which is said",
        (_NODE, Argument("no-rebalance", "move nobody there for that, but by the next rebalance")),
        mutates=True,
        run=_undrain,
    ),
    Command(
        "rebalance",
        "move those who are elsewhere than they belong: users with a node of their own to it, and of the others the"
        " fewest that even the load",
        (
            Argument(
                "plan", "change nothing; show how many clients would go from where to where, and how long it takes"
            ),
            Argument("wait", "show progress until all were asked"),
            Argument("rate", "clients to move per second, instead of transfer-rate", values.RATE),
            Argument(
                "max-share", "move at most this share of each node's clients: for a change in portions", values.SHARE
            ),
            Argument("stop", "ask nobody more in the rebalance that goes on"),
        ),
        mutates=True,
        run=_rebalance,
        goes_on="the rebalance goes on (show transfers tells what it does, rebalance --stop ends it)",
    ),
    Command(
        "move",
        "send one user's clients to a node, at once; he belongs where he belonged, so a rebalance may send him home",
        (Argument("jid", "the user's address; with a resource, that client's", values.JID, positional=True), _NODE),
        mutates=True,
        run=_move,
    ),
    Command(
        "show",
        "show what the proxy knows",
        (Argument("what", "what to show", values.TEXT, positional=True, choices=tuple(_VIEWS)),),
        mutates=False,
        run=_show,
    ),
    Command(
        "pin",
        "place a user's clients on that node from now on, until the proxy is restarted (with etcd: until unpin)",
        (_JID, _NODE),
        mutates=True,
        run=_pin,
    ),
    Command("unpin", "place a user like everybody else again", (_JID,), mutates=True, run=_unpin),
    Command("reload", "read the nodes, the user map and certificates again", (), mutates=True, run=_reload),
    Command(
        "restart-workers",
        "replace all workers, one by one: the new one serves before the old one moves its clients away and ends",
        (Argument("wait", "show progress until all are replaced, or one could not be"),),
        mutates=True,
        run=_restart_workers,
        goes_on="the workers go on being replaced (show workers tells how far it is)",
    ),
)


def command_named(name: str) -> Command:
    """Raises :class:`ConfigError` for a name that isn't in the table."""
    for command in COMMANDS:
        if command.name == name:
            return command
    known = ", ".join(command.name for command in COMMANDS)
    raise ConfigError(f"unknown command {name!r:.80}; known are {known}")


async def execute(operations: Operations, name: str, given: Mapping[str, object], report: Report) -> Answer:
    """Carry out one command with arguments as they came. Raises :class:`ConfigError` for the operator's
    mistakes.

    On cancel: what was started goes on, only the waiting ends.
    """
    command = command_named(name)
    answer = await command.run(operations, command.read_arguments(given), report)
    for omission in operations.omissions():
        await report(Note(omission))
    return answer
