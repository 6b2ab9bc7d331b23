"""The source that an operator names with ``--backends``."""

from __future__ import annotations

from pathlib import Path

from cxfr_proxy.cluster.backends import Backends, EtcdBackends, SrvBackends
from cxfr_proxy.cluster.sources.source import NodeSource
from cxfr_proxy.cluster.targets import RedirectTargets


def open_source(backends: Backends, targets: RedirectTargets) -> NodeSource:
    """Open the source that the operator named. The modules that it needs are imported now: a file needs neither DNS nor
    HTTP.

    Raises :class:`~cxfr_proxy.errors.ConfigError` for files that it needs and can't read.
    """
    if isinstance(backends, SrvBackends):
        from cxfr_proxy.cluster.sources.dns import SrvSource

        return SrvSource(backends)
    if isinstance(backends, EtcdBackends):
        from cxfr_proxy.cluster.sources.etcd import EtcdSource

        return EtcdSource(backends, targets)
    from cxfr_proxy.cluster.sources.file import NodesFile

    return NodesFile(Path(backends.path), targets=targets)
