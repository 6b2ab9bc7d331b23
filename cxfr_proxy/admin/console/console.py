"""Everything of a running proxy that an operator can get at, part by part. A command is given those that it needs."""

from __future__ import annotations

from dataclasses import dataclass

from cxfr_proxy.admin.console.clients import ClientControl
from cxfr_proxy.admin.console.drains import DrainControl
from cxfr_proxy.admin.console.history import History
from cxfr_proxy.admin.console.nodes import NodeControl
from cxfr_proxy.admin.console.parts import About, Keeping, Peers, Reloader, SessionLists, SettingsControl
from cxfr_proxy.admin.console.pins import PinControl
from cxfr_proxy.admin.console.rebalances import RebalanceControl
from cxfr_proxy.admin.console.rolls import RollControl
from cxfr_proxy.admin.console.upgrades import UpgradeControl
from cxfr_proxy.admin.console.workers import WorkerControl


@dataclass(frozen=True, slots=True)
class Console:
    nodes: NodeControl
    drains: DrainControl
    rebalances: RebalanceControl
    rolls: RollControl
    pins: PinControl
    workers: WorkerControl
    upgrades: UpgradeControl
    clients: ClientControl
    sessions: SessionLists
    peers: Peers
    files: Reloader
    settings: SettingsControl
    about: About
    history: History
    state: Keeping
