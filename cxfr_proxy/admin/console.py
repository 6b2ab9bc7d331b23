"""Everything of a running proxy that an operator can get at, part by part. A command is given those that it needs."""

from __future__ import annotations

from dataclasses import dataclass

from cxfr_proxy.admin.clients import ClientControl
from cxfr_proxy.admin.drains import DrainControl
from cxfr_proxy.admin.history import History
from cxfr_proxy.admin.nodes import NodeControl
from cxfr_proxy.admin.parts import About, Keeping, Peers, Reloader, SessionLists, SettingsControl
from cxfr_proxy.admin.pins import PinControl
from cxfr_proxy.admin.rebalances import RebalanceControl
from cxfr_proxy.admin.rolls import RollControl
from cxfr_proxy.admin.upgrades import UpgradeControl
from cxfr_proxy.admin.workers import WorkerControl


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
