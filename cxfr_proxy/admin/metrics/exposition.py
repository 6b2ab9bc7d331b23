"""Writing a snapshot down. How the formats look is ``prometheus_client``'s to know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import exposition
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from cxfr_proxy.admin.metrics.snapshot import MetricsSnapshot
from cxfr_proxy.admin.metrics.table import METRICS, Metric, MetricType
from cxfr_proxy.transfers.statistics import BUCKETS, Durations


@dataclass(frozen=True, slots=True)
class Exposition:
    """The answer to a scrape."""

    content_type: str
    body: bytes


_PLAIN: Final = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS: Final = "application/openmetrics-text"
_OPENMETRICS_END: Final = b"# EOF\n"


def content_type_of(accept: str) -> str:
    """Return the content type of the page that ``accept``, the request's header, asks for."""
    is_openmetrics = any(each.partition(";")[0].strip().lower() == _OPENMETRICS for each in accept.split(","))
    return openmetrics.CONTENT_TYPE_LATEST if is_openmetrics else _PLAIN


def in_parts(snapshot: MetricsSnapshot, accept: str = "") -> tuple[str, Iterator[bytes]]:
    """Return the content type, and the page metric by metric.

    ``accept`` is the request's header: OpenMetrics if it is named there, otherwise Prometheus' text. With ten thousand
    nodes, a metric takes a fiftieth of a second, and there are some fifty.
    """
    content_type = content_type_of(accept)
    if content_type != _PLAIN:
        return content_type, _openmetrics(snapshot)
    return _PLAIN, (exposition.generate_latest(_Collected(snapshot, metric)) for metric in METRICS)


def _openmetrics(snapshot: MetricsSnapshot) -> Iterator[bytes]:
    """Yield the page in OpenMetrics, whose last line says that it is the last."""
    for metric in METRICS:
        part: bytes = openmetrics.generate_latest(_Collected(snapshot, metric))  # type: ignore[no-untyped-call]
        yield part.removesuffix(_OPENMETRICS_END)
    yield _OPENMETRICS_END


class _Collected(Collector):
    def __init__(self, snapshot: MetricsSnapshot, metric: Metric) -> None:
        self._snapshot = snapshot
        self._metric = metric

    def collect(self) -> Iterator[Family]:
        yield _family(self._metric, self._snapshot)


def _family(metric: Metric, snapshot: MetricsSnapshot) -> Family:
    if metric.type is MetricType.HISTOGRAM:
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in metric.samples(snapshot):
            assert isinstance(value, Durations)
            histogram.add_metric(labels, list(_cumulative(value)), value.seconds)
        return histogram
    kind = CounterMetricFamily if metric.type is MetricType.COUNTER else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in metric.samples(snapshot):
        assert not isinstance(value, Durations)
        family.add_metric(labels, value)
    return family


def _cumulative(durations: Durations) -> Iterator[tuple[str, float]]:
    """Return the buckets so that each holds everything below its bound."""
    total = 0
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), durations.counts, strict=True):
        total += count
        yield bound, total
