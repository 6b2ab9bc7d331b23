"""docs/metrics.md, drawn from the table."""

from __future__ import annotations

from typing import Final

from cxfr_proxy.admin.metrics.table import METRICS

_MARKDOWN_HEAD: Final = """# Metrics

Drawn from the table in `cxfr_proxy/admin/metrics/table.py`; a test fails when the two differ.

With `--http ADDRESS:PORT` the proxy answers `GET /metrics` in Prometheus' text format, or in OpenMetrics where the
request's `Accept` says so. Counters go on over the whole life of the proxy, whatever becomes of its workers; they begin
again at 0 when the proxy itself is started anew. What a worker that is killed had not told yet, a few milliseconds'
worth, is lost. Of a node that is forgotten (its line is gone, and nobody is on it) the series `cxfr_node_*` end.

No label holds a user, an address or anything else that a client said: `software` is a name from the table of what was
measured (docs/connection-transfer.md), `other`, or `unknown` for a client that has not said what it is.

The main process, of which `process_*` tell, is with more than one worker the supervisor, which serves no client.
"""


def render_markdown() -> str:
    rows = [
        f"| `{metric.name}` | {metric.type} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.help} |"
        for metric in METRICS
    ]
    return "\n".join([_MARKDOWN_HEAD, "| Metric | Type | Labels | Help |", "|---|---|---|---|", *rows, ""])
