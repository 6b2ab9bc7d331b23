"""docs/metrics.md, drawn from the table."""

from __future__ import annotations

from typing import Final

from cxfr_proxy.admin.metrics.table import METRICS

_MARKDOWN_HEAD: Final = """# Metrics

Drawn from the table in `cxfr_proxy/admin/metrics/table.py`; a test fails when the two differ.

With `--http ADDRESS:PORT` the proxy answers `GET /metrics` in Prometheus' text format, or in OpenMetrics if the
request's `Accept` names it. Counters continue over the whole life of the proxy, whatever happens to its workers; they
start at 0 when the proxy itself is restarted. A worker that is killed takes with it what it had not reported yet, a
few milliseconds' worth. When a node is forgotten (its line is gone, and it has no sessions), its `cxfr_node_*` series
end.

No label holds a user, an address or anything else that a client said: `software` is a name from
[the table of what was measured](connection-transfer.md#what-clients-do), `other`, or `unknown` for a client that has
not said what it is.

`process_*` are about the main process. With more than one worker that is the supervisor, which serves no client.
"""


def render_markdown() -> str:
    rows = [
        f"| `{metric.name}` | {metric.type} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.help} |"
        for metric in METRICS
    ]
    return "\n".join([_MARKDOWN_HEAD, "| Metric | Type | Labels | Help |", "|---|---|---|---|", *rows, ""])
