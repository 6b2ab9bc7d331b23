"""The replacement of the proxy itself, as an operator begins and watches it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

from cxfr_proxy.admin.console.parts import ProxyUpgrades
from cxfr_proxy.admin.feed import ChangeFeed, follow
from cxfr_proxy.admin.rows.order_rows import UpgradeProgress
from cxfr_proxy.errors import ConfigError


class UpgradeControl:
    def __init__(self, upgrades: ProxyUpgrades, feed: ChangeFeed) -> None:
        self._upgrades = upgrades
        self._feed = feed

    def begin(self, program: Path | None = None) -> None:
        """Start a new process that takes the place of this one; return at once.

        ``program`` is what is started, ``None``: the program that runs, as it is on disk now. Raises
        :class:`ConfigError` where one goes on already, or this proxy can't be replaced.
        """
        self._upgrades.begin(str(program) if program is not None else None)

    async def until_decided(self) -> None:
        """Wait while it is not clear which process is the proxy; cancelled where it becomes another one."""
        await self._upgrades.until_decided()

    def follow(self) -> AsyncGenerator[UpgradeProgress, None]:
        """Return how far it is, again and again until its end; see :func:`~cxfr_proxy.admin.feed.follow`.

        Raises :class:`ConfigError` where there was none.
        """
        if self._upgrades.last is None:
            raise ConfigError("the proxy is not being replaced")
        return follow(self._feed, self._upgrades.last.progress)
