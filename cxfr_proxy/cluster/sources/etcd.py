"""The list of nodes in etcd, and what several proxies share there: directives, pins, and one pace.

All keys are read once, then followed by a watch: :class:`~cxfr_proxy.cluster.shared.Keys` is always what etcd has, or
had. Any failure ends the connection as a whole, and the next one begins by reading everything again. So there is one
way to come up to date, after a start, a revision that was compacted away, at another endpoint, and with a restored
backup.

* *Lost*: the last known state stays: nodes, directives, pins and the share of the pace. A lease that is kept alive
  every other second shows that etcd has gone; a key of our own that comes back by the watch shows that the watch lives.
* *Directives* that are given here hold here at once, and are written. One that could not be written is written when
  etcd is back, unless somebody else has changed the key meanwhile: then theirs holds (``command-overtaken``).
* *Share*: a proxy's key has a lease. When it expires the others take its share. So for a while after it has come back,
  a proxy takes no more than it had: others may not be back yet.
"""

from __future__ import annotations

import logging
import math
import os
import random
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

import httpx2
import trio

from cxfr_proxy.cluster.backends import PASSWORD_VARIABLE, EtcdBackends
from cxfr_proxy.cluster.shared import Directive, Entry, Keys, ProxyState, Section, share_of
from cxfr_proxy.cluster.sources.gateway import REQUEST_SECONDS, Change, Compacted, EtcdCredentials, EtcdError, Gateway
from cxfr_proxy.cluster.sources.source import LAST_RETRY_SECONDS, Reading, Shared, SourceStatus
from cxfr_proxy.cluster.targets import ANYWHERE, RedirectTargets
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.files import open_file
from cxfr_proxy.tasks import Task, isolated

LEASE_SECONDS: Final = 5
"""Seconds for which a proxy that died keeps its share."""
_REPORT_SECONDS: Final = 1.0
"""Least seconds between two reports of how many clients a proxy has to move."""
_ECHO_SECONDS: Final = 20.0
"""Most seconds between two reports: what is written then has to come back by the watch."""
_SETTLING_SECONDS: Final = LAST_RETRY_SECONDS + LEASE_SECONDS
"""Seconds after etcd was away, by which everybody has tried again and had time for an attempt."""
_GOODBYE_SECONDS: Final = 1.0
_LONGEST_PASSWORD: Final = 4096

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Pending:
    """A value to be written. ``known``: the revision that was known when it was given, 0 for none; ``late``:
    it could not be written at once, so ``known`` has to be there still. ``directive``: its meaning, if it is one."""

    value: str | None
    known: int
    late: bool
    directive: Directive | None = None


class EtcdSource:
    """See the module. ``identity`` is the proxy's name among the others; ``transport`` is for
    :class:`~.gateway.Gateway`.

    Raises :class:`~cxfr_proxy.errors.ConfigError` if the password or the CA can't be read.
    """

    def __init__(
        self,
        backends: EtcdBackends,
        targets: RedirectTargets = ANYWHERE,
        *,
        environ: Mapping[str, str] = os.environ,
        transport: httpx2.AsyncBaseTransport | None = None,
        identity: str | None = None,
    ) -> None:
        self.name = str(backends)
        self.status = SourceStatus(self.name)
        self.id = identity if identity is not None else f"{socket.gethostname()}-{secrets.token_hex(3)}"
        self.shared: Shared | None = self
        self.on_share: Callable[[float], None] = lambda share: None
        self.on_pins: Callable[[], None] = lambda: None
        self._prefix = f"{backends.prefix}/"
        self._keys = Keys(backends.prefix, targets)
        self._gateway = Gateway(backends, _login(backends, environ), transport)
        self._read_at = 0
        self._revision = 0
        self._lease = 0
        self._faults: dict[str, str] = {}
        self._pending: dict[tuple[Section, str], _Pending] = {}
        self._state = ProxyState()
        self._reported: tuple[float, ProxyState] = (-math.inf, self._state)
        self.share = 1.0
        """This proxy's part of the common pace."""
        self._settled_at = -math.inf
        self._changed = trio.Event()
        self._work = trio.Event()
        self._arrived = trio.lowlevel.ParkingLot()

    # --- the nodes

    async def read(self) -> Reading:
        """See :class:`~.source.NodeSource`. Every endpoint is tried."""
        for left in reversed(range(self._gateway.endpoints)):
            try:
                revision, entries = await self._gateway.range(self._prefix)
                # While it was on its way the watch may have brought newer ones.
                if revision >= self._revision or self.status.lost_at is not None:
                    self._replace(revision, entries)
                break
            except EtcdError as exc:
                if not left:
                    raise ConfigError(f"{self._gateway.endpoint}: {exc}", file=self.name) from exc
                self._gateway.turn()
        return self._reading()

    async def next_reading(self) -> Reading:
        """See :class:`~.source.NodeSource`."""
        await self._changed.wait()
        self._changed = trio.Event()
        return self._reading()

    def unread(self) -> None:
        self._changed.set()

    def allow(self, targets: RedirectTargets) -> None:
        self._keys.targets = targets

    def _reading(self) -> Reading:
        directives = {name: each.directive for (_, name), each in self._pending.items() if each.directive is not None}
        try:
            specs, holding = self._keys.read_nodes(directives)
        except ConfigError as exc:
            raise ConfigError(exc.message, file=self.name) from exc
        self._say_faults()
        return Reading(specs, holding, tuple(f"{key}: {fault}" for key, fault in self._keys.faults.items()))

    def _say_faults(self) -> None:
        """Log each fault once."""
        for key, fault in self._keys.faults.items():
            if self._faults.get(key) != fault:
                emit(_log, "source-fault", level=logging.ERROR, key=key, error=fault)
        self._faults = dict(self._keys.faults)

    # --- what is shared

    @property
    def proxies(self) -> Mapping[str, ProxyState]:
        return self._keys.proxies()

    @property
    def pins(self) -> Mapping[str, str]:
        pins = self._keys.pins()
        for (section, user), each in self._pending.items():
            if section is Section.PINS:
                pins.pop(user, None)
                if each.value is not None:
                    pins[user] = each.value
        return pins

    @property
    def pending(self) -> int:
        return len(self._pending)

    def set_directive(self, node: str, directive: Directive) -> None:
        if (own := self._keys.own_admin_state(node)) is not None:
            said = replace(directive, against=own)
            self._say(Section.STATES, node, said.encode(), said)

    def set_pin(self, user: str, node: str | None) -> None:
        self._say(Section.PINS, user, node)

    def report(self, state: ProxyState) -> None:
        self._state = state

    def _say(self, section: Section, name: str, value: str | None, directive: Directive | None = None) -> None:
        entry = self._keys.entry(section, name)
        late = self.status.lost_at is not None
        self._pending[section, name] = _Pending(value, entry.revision if entry is not None else 0, late, directive)
        self._work.set()
        self._pass_on({section})

    # --- keeping up

    async def run(self) -> None:
        """See :class:`~.source.Shared`."""
        try:
            while True:
                failure = EtcdError("a fault of the proxy's own, which the log has")
                with isolated(Task.ETCD):
                    failure = await self._keep_up()
                self.status.lost(f"{self._gateway.endpoint}: {failure}")
                self._gateway.turn()
                # By chance, so that a fleet does not come back to etcd in step.
                await trio.sleep(self.status.next_pause() * random.uniform(0.5, 1.0))
        finally:
            # Shielded, or the cancellation that brought us here would cancel the request: the others would wait for the
            # lease to expire before they take this proxy's share.
            with trio.move_on_after(_GOODBYE_SECONDS, shield=True):
                await self._say_goodbye()

    async def _say_goodbye(self) -> None:
        try:
            if self._lease and self.status.lost_at is None:
                await self._gateway.revoke(self._lease)
        except EtcdError:
            pass  # the lease expires by itself
        await self.aclose()

    async def aclose(self) -> None:
        await self._gateway.aclose()

    async def _keep_up(self) -> EtcdError:
        """Connect, and follow until something fails. Return what failed."""
        failures: list[EtcdError] = []

        async def attempt(task: Callable[[], Awaitable[None]]) -> None:
            try:
                await task()
            except EtcdError as exc:
                failures.append(exc)
                nursery.cancel_scope.cancel()

        try:
            await self._connect()
        except EtcdError as exc:
            return exc
        async with trio.open_nursery() as nursery:
            for task in (self._watch, self._keep_lease, self._write):
                nursery.start_soon(attempt, task)
        return failures[0]

    async def _connect(self) -> None:
        if self.status.lost_at is not None:
            self._settled_at = trio.current_time() + _SETTLING_SECONDS
        self._replace(*await self._gateway.range(self._prefix))
        self._lease = await self._gateway.grant(LEASE_SECONDS)
        self._reported = (-math.inf, self._state)
        self._drop_what_has_arrived()

    async def _keep_lease(self) -> None:
        while True:
            await trio.sleep(LEASE_SECONDS / 3)
            if not await self._gateway.keep_alive(self._lease):
                raise EtcdError(f"nothing was heard from this proxy for {LEASE_SECONDS} s")

    # --- reading

    async def _watch(self) -> None:
        while True:
            try:
                # Behind what was read: a watch from "now" would miss changes in between.
                async with aclosing(self._gateway.watch(self._prefix, self._revision + 1)) as watch:
                    with trio.move_on_after(REQUEST_SECONDS) as limit:
                        self._take(await anext(watch))
                    if limit.cancelled_caught:
                        raise EtcdError(f"the watch has not begun within {REQUEST_SECONDS:g} s")
                    self.status.well()
                    async for changes in watch:
                        self._take(changes)
            except Compacted:
                self._replace(*await self._gateway.range(self._prefix))

    def _replace(self, revision: int, entries: list[tuple[str, Entry]]) -> None:
        self._read_at = self._revision = revision
        self._keys.replace(entries)
        self._arrived.unpark_all()
        self._pass_on(set(Section))

    def _take(self, changes: list[Change]) -> None:
        """Drop writes that are older than what was read as a whole."""
        new = [change for change in changes if change.revision > self._read_at]
        sections = {self._keys.put(change.key, change.entry) for change in new}
        self._revision = max([self._revision, *(change.revision for change in new)])
        self._arrived.unpark_all()
        self._pass_on({section for section in sections if section is not None})

    def _pass_on(self, sections: set[Section]) -> None:
        if sections & {Section.NODES, Section.STATES}:
            self._changed.set()
        if Section.PINS in sections:
            self.on_pins()
        if Section.PROXIES in sections:
            self._share_anew()

    def _share_anew(self) -> None:
        share = share_of(self.id, {self.id: ProxyState(), **self._keys.proxies()})
        if self.status.lost_at is not None or trio.current_time() < self._settled_at:
            # The others may not be back yet, so what is missing of them must not count as gone.
            share = min(share, self.share)
        if share != self.share:
            self.share = share
            self.on_share(share)

    # --- writing

    async def _write(self) -> None:
        while True:
            self._work = trio.Event()
            for section, name in list(self._pending):
                await self._write_pending(section, name)
            await self._write_report()
            self._share_anew()
            with trio.move_on_after(_REPORT_SECONDS):
                await self._work.wait()

    async def _write_pending(self, section: Section, name: str) -> None:
        pending = self._pending[section, name]
        known = pending.known if pending.late else None
        # Set before the attempt: if its answer is lost, the value may be written, and a second attempt must not
        # overwrite somebody else's.
        pending.late = True
        revision = await self._gateway.put(self._keys.key(section, name), pending.value, unless_changed_since=known)
        if revision is not None and pending.value is not None:
            await self._until(revision)
        if self._pending.get((section, name)) is pending:  # else there is a newer one
            del self._pending[section, name]
        if revision is None:
            emit(_log, "command-overtaken", level=logging.WARNING, key=self._keys.key(section, name))
        self._pass_on({section})

    def _drop_what_has_arrived(self) -> None:
        """Drop what has been written although the answer got lost."""
        for (section, name), pending in list(self._pending.items()):
            entry = self._keys.entry(section, name)
            if entry is not None and entry.value == pending.value:
                del self._pending[section, name]

    async def _write_report(self) -> None:
        at, reported = self._reported
        age = trio.current_time() - at
        if age >= (_REPORT_SECONDS if self._state != reported else _ECHO_SECONDS):
            self._reported = (trio.current_time(), self._state)
            key = self._keys.key(Section.PROXIES, self.id)
            revision = await self._gateway.put(key, self._state.encode(), lease=self._lease)
            if revision is not None:
                await self._until(revision)

    async def _until(self, revision: int) -> None:
        """Wait for what was written to come back."""
        with trio.move_on_after(REQUEST_SECONDS):
            while self._revision < revision:
                await self._arrived.park()
            return
        raise EtcdError(f"what was written has not come back within {REQUEST_SECONDS:g} s")


def _login(backends: EtcdBackends, environ: Mapping[str, str]) -> EtcdCredentials | None:
    if backends.user is None:
        return None
    if backends.password_file is None:
        password = environ.get(PASSWORD_VARIABLE)
        if not password:
            raise ConfigError(
                f"expected the password of {backends.user!r} in the environment as {PASSWORD_VARIABLE}, or a file that "
                "?password-file= names"
            )
        return EtcdCredentials(backends.user, password)
    try:
        with open_file(backends.password_file) as file:
            line = file.readline(_LONGEST_PASSWORD).decode("utf-8-sig")  # a byte-order mark is no password
            return EtcdCredentials(backends.user, line.rstrip("\r\n"))
    except OSError as exc:
        raise ConfigError(
            f"expected a readable password file, found: {exc.strerror}", file=backends.password_file
        ) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError("expected a password in UTF-8", file=backends.password_file) from exc
