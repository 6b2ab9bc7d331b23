"""Take settings and files anew while the proxy runs: all of it, or nothing where something is wrong.

There is one way, for SIGHUP, for the commands ``reload``, ``set`` and ``unset``, and for a file that is followed and
has changed: that of settings or of tokens, those in directories of certificates, those of the certificate of HTTPS.
Everything is read first and every fault is found. Then all workers try what they are to use, since a library of theirs
may see a certificate otherwise. Only then it counts, here at one stroke, and in each worker at one stroke.

The list of nodes and the user map are followed anyway. Where they are good and something else is not, they are taken
when they would have been without being asked. So is the file of tokens: what was taken out of it lets nobody in any
more, whatever else is wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from cxfr_proxy import shortage
from cxfr_proxy.admin.console.reloads import Faults, ReloadPart, ReloadRefused, Reloads
from cxfr_proxy.admin.http.access import Access
from cxfr_proxy.admin.http.tokens import TokenList
from cxfr_proxy.admin.rows.rows import SettingRow
from cxfr_proxy.cluster.targets import RedirectTargets
from cxfr_proxy.config.current import CurrentSettings, SettingsChange
from cxfr_proxy.config.settings import Reload
from cxfr_proxy.config.table import Config
from cxfr_proxy.errors import FaultList, FileFaults, WorkerRefusal
from cxfr_proxy.events import emit
from cxfr_proxy.files import FileVersion, version_of
from cxfr_proxy.net.certificate_files import files_of
from cxfr_proxy.net.tls import ShownCertificates
from cxfr_proxy.service_manager import ServiceManager
from cxfr_proxy.supervisor.reading.node_list import NodeList, ReadNodes
from cxfr_proxy.supervisor.reading.served_files import PreparedFiles, ServedFiles
from cxfr_proxy.supervisor.reading.user_list import ReadUsers, UserList
from cxfr_proxy.supervisor.startup_log import log_certificates

_LOOK_SECONDS: Final = 1.0
"""Seconds between two looks at the files that are followed. A look is a call of the system for each."""
_ELSEWHERE: Final = frozenset((ReloadPart.NODES, ReloadPart.USER_MAP))
"""These may become good without a change of the files that :meth:`Reloading.watch` looks at."""

_log = logging.getLogger(__name__)


class SettingsFollower(Protocol):
    """Goes by the settings."""

    def settings_taken(self, config: Config) -> None:
        """Go by these from now on. They were checked, and nothing about them may fail any more."""


@dataclass(slots=True)
class _ReadSoFar:
    """All that was read, as far as it was good."""

    change: SettingsChange | None = None
    files: PreparedFiles | None = None
    users: ReadUsers | None = None
    https: ShownCertificates | None = None
    tokens: TokenList | None = None
    nodes: ReadNodes | None = None
    followed: Mapping[str, FileVersion | None] = field(default_factory=dict)
    """Files that are followed with these settings and were not before, as they were before they were read."""
    left: Collection[str] = ()
    """Those that are followed no more."""


class Reloading:
    """Takes settings and files anew. It is the console's :class:`~cxfr_proxy.admin.console.parts.Reloader` and
    :class:`~cxfr_proxy.admin.console.parts.SettingsControl`."""

    def __init__(
        self,
        settings: CurrentSettings,
        files: ServedFiles,
        nodes: NodeList,
        users: UserList,
        access: Access,
        reloads: Reloads,
        manager: ServiceManager,
        follower: SettingsFollower,
    ) -> None:
        self._settings = settings
        self._files = files
        self._nodes = nodes
        self._users = users
        self._access = access
        self._reloads = reloads
        self._manager = manager
        self._follower = follower
        self._asked = trio.Event()
        self._seen = self._look(settings.config)
        """The files that are followed, as they were before they were read last."""

    # --- whoever asks for it

    def ask(self) -> None:
        """Have everything read again soon; faults go to the log."""
        self._asked.set()

    async def run(self) -> None:
        """Read everything again whenever :meth:`ask` says so, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            if not await self._reload_and_log():
                with trio.move_on_after(shortage.AGAIN_SECONDS):
                    await self._asked.wait()
                self._asked.set()

    async def watch(self) -> None:
        """Read everything again when a file that is followed has changed, until cancelled. A change counts when two
        looks in a row have seen the same: what is being written is not read."""
        before = tried = self._seen
        again_at = 0.0
        while True:
            await trio.sleep(_LOOK_SECONDS)
            now = self._look(self._settings.config)
            if now == before and now != self._seen and (now != tried or trio.current_time() >= again_at):
                tried, again_at = now, trio.current_time() + shortage.AGAIN_SECONDS
                await self._reload_and_log()
            before = now

    def _look(self, config: Config) -> Mapping[str, FileVersion | None]:
        """Return the versions of the files that are followed with these settings; ``None`` for one that is not
        there."""
        pair = config.http_key_pair
        https = (pair.certificate, pair.key) if pair is not None else ()
        others = (self._settings.file, config.http_tokens, *https)
        files = [*map(str, files_of(config)), *(str(file) for file in others if file is not None)]
        return {file: version_of(file) for file in files}

    async def _reload_and_log(self) -> bool:
        """Return false where it may work by and by as it is."""
        try:
            await self.reload()
        except ReloadRefused as exc:
            exc.log()
            return not shortage.passes(exc)
        return True

    async def reload(self) -> str:
        """Read settings, nodes, user map, certificates and tokens again. Return in a sentence what was done.

        Raises :class:`~cxfr_proxy.admin.console.reloads.ReloadRefused` for all that is wrong, and then nothing has
        changed.
        """
        # Before it is read: what is written from here on is a change.
        before, self._seen = self._seen, self._look(self._settings.config)
        try:
            with self._manager.reloading():
                change, nodes = await self._take(self._settings.reread, again=True)
        except trio.Cancelled:  # whoever asked is gone: what has changed is still to be read
            self._seen = before
            raise
        except ReloadRefused as exc:
            # What has changed is good then, or could not be read just now: it is still to be taken.
            if all(part in _ELSEWHERE for part, _ in exc.by_part) or shortage.passes(exc):
                self._seen = before
            raise
        done = [f"{nodes}, certificates read again"]
        if change.taken:
            done.append(f"{', '.join(change.taken)}: taken")
        if change.waiting:
            names = ", ".join(change.waiting)
            emit(_log, "settings-not-taken", level=logging.WARNING, settings=names, reason="they are read at the start")
            done.append(f"{names}: changed, which takes a restart of the proxy")
        return "; ".join((*done, *self._files.problems, *self._access.certificate.problems))

    async def set(self, name: str, values: Sequence[str]) -> str:
        """Give a setting another value until the proxy is restarted; several for one that is a list. Return in a
        sentence what was done.

        Raises :class:`ConfigError`, and then nothing has changed.
        """
        await self._take(lambda: self._settings.with_set(name, values), again=False)
        return f"{self._told(name)}, until the proxy is restarted"

    async def unset(self, name: str) -> str:
        """Take back what was set. Return and raise as :meth:`set` does."""
        await self._take(lambda: self._settings.without_set(name), again=False)
        return f"{self._told(name)}, as before it was set"

    def _told(self, name: str) -> str:
        (row,) = (row for row in self.rows() if row.name == name)
        whom = "; clients that are connected stay as they are" if row.changeable == Reload.NEW else ""
        return f"{name} is {row.value} now{whom}"

    def rows(self) -> list[SettingRow]:
        """Return all settings with their values."""
        config = self._settings.config
        return [
            SettingRow(
                name=each.name,
                value=each.text(each.value_in(config)),
                default=each.default,
                source=origin,
                changeable=str(each.row.reload),
            )
            for each, origin in self._settings
        ]

    # --- the one way

    async def _take(self, find: Callable[[], SettingsChange], *, again: bool) -> tuple[SettingsChange, str | None]:
        """Take the change that ``find`` returns; ``again``: and all files, whether they are concerned or not. Return
        the change, and what has changed about the nodes, ``None`` where they were not read."""
        faults: Faults = []
        async with self._users.being_read:
            try:
                found = await self._read(find, faults, again=again)
            except BaseException:  # whoever asked is gone: what was read by then is not lost
                self._nodes.unread()
                self._users.unread()
                raise
            if faults:
                refused = ReloadRefused(faults)
                self._put_back(found)
                if shortage.passes(refused):  # the list and the map may be what could not be read
                    self._nodes.unread()
                    self._users.unread()
                raise refused
            assert found.change is not None
            listed = self._use(found)
        with self._reloads.collected(ReloadPart.CERTIFICATES, faults, noting=again), trio.CancelScope(shield=True):
            _raise(await self._files.hand_over())  # it counts here already: workers hear of it, whoever is gone
        if faults:  # the workers have tried it before: only a defect leads here
            raise ReloadRefused(faults)
        if found.change.taken:
            emit(_log, "settings-taken", settings=", ".join(found.change.taken))
        return found.change, listed

    async def _read(self, find: Callable[[], SettingsChange], faults: Faults, *, again: bool) -> _ReadSoFar:
        found, config = _ReadSoFar(), self._settings.config
        with self._reloads.collected(ReloadPart.SETTINGS, faults, noting=again):
            found.change = find()
            config = found.change.config
            before, after = self._look(self._settings.config), self._look(config)
            found.followed = {file: seen for file, seen in after.items() if file not in before}
            found.left = before.keys() - after.keys()
        taken = found.change.taken if found.change is not None else ()
        with self._reloads.collected(ReloadPart.CERTIFICATES, faults, noting=again):
            wrong = FaultList()
            with wrong:
                found.files = self._files.prepare(config, again=again)
            with wrong:
                found.https = self._access.certificate.prepare(config, again=again)
            wrong.check()
        if again or "http-tokens" in taken:
            with self._reloads.collected(ReloadPart.HTTP_TOKENS, faults):
                found.tokens = self._access.prepare(config)
        else:
            found.tokens = self._access.tokens
        if config.user_map is not None and (again or "user-map" in taken):
            with self._reloads.collected(ReloadPart.USER_MAP, faults):
                found.users = await self._users.read(config.user_map)
        if found.files is not None and not faults:
            with self._reloads.collected(ReloadPart.CERTIFICATES, faults, noting=again):
                _raise(await self._files.try_out(config, found.files))
        if again or "redirect-targets" in taken:
            # Last, so that no later reading is overtaken by this one.
            with self._reloads.collected(ReloadPart.NODES, faults), self._allowing(config.redirection):
                found.nodes = await self._nodes.read()
        return found

    @contextmanager
    def _allowing(self, targets: RedirectTargets) -> Iterator[None]:
        """Read nodes with these; those in use hold again if that fails."""
        self._nodes.allow(targets)
        try:
            yield
        except BaseException:
            self._nodes.allow(self._settings.config.redirection)
            raise

    def _put_back(self, found: _ReadSoFar) -> None:
        config = self._settings.config
        self._nodes.allow(config.redirection)
        if found.nodes is not None:
            self._nodes.unread()
        if found.users is not None:
            self._users.unread()
        same_file = found.change is None or found.change.config.http_tokens == config.http_tokens
        if found.tokens is not None and same_file:
            self._access.use(config, found.tokens)

    def _use(self, found: _ReadSoFar) -> str | None:
        """Have all of it count, at one stroke: nothing is awaited here, and nothing fails."""
        assert found.change is not None
        assert found.files is not None
        stay = {file: seen for file, seen in self._seen.items() if file not in found.left}
        self._seen = {**stay, **found.followed}
        self._settings.use(found.change)
        self._files.use(found.files)
        self._access.certificate.use(found.https)
        log_certificates(self._access.certificate.problems)
        self._access.use(found.change.config, found.tokens)
        if found.users is not None or found.change.config.user_map is None:
            self._users.take(found.users)
        self._follower.settings_taken(found.change.config)
        return self._nodes.take_as_asked(found.nodes) if found.nodes is not None else None


def _raise(errors: Iterable[str]) -> None:
    """Raise what workers have answered, each fault once: most are found by all of them."""
    faults = [WorkerRefusal(line) for error in errors for line in error.splitlines()]
    if faults:
        raise FileFaults(faults)
