"""The dashboard and the alert rules: each query asks for metrics, labels and values that there are, and each alert is
explained and tested."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from real.programs import Need, require

from cxfr_proxy.admin.console.reloads import ReloadPart
from cxfr_proxy.admin.metrics.table import METRICS, Metric, MetricType
from cxfr_proxy.cluster.nodes import AdminState, Health
from cxfr_proxy.net.tls_failures import TlsFailure
from cxfr_proxy.session.commands import Outcome, Side
from cxfr_proxy.session.ladder import Rung
from cxfr_proxy.session.tables import State
from cxfr_proxy.xmpp.names import StreamCondition

ROOT: Final = Path(__file__).parents[1]
RULES: Final = ROOT / "packaging" / "prometheus" / "alerts.yml"
RULE_TESTS: Final = RULES.with_name("alerts.test.yml")
DASHBOARD: Final = ROOT / "packaging" / "grafana" / "cxfr-proxy.json"
ALARMS: Final = ROOT / "docs" / "alarms.md"

BY_NAME: Final = {metric.name: metric for metric in METRICS}
SERIES: Final = {
    **BY_NAME,
    **{
        f"{metric.name}_{part}": metric
        for metric in METRICS
        if metric.type is MetricType.HISTOGRAM
        for part in ("bucket", "sum", "count")
    },
}
"""By the name of each series that there is."""
OF_PROMETHEUS: Final = frozenset(("job", "instance"))
"""Labels that a scrape adds."""
VALUES: Final[dict[tuple[str, str], set[str]]] = {
    ("cxfr_sessions", "state"): {each.value for each in State},
    ("cxfr_logins_total", "tls"): {"yes", "no"},
    ("cxfr_node_health", "health"): {str(each) for each in Health},
    ("cxfr_node_admin_state", "state"): {str(each) for each in AdminState},
    ("cxfr_tls_handshakes_failed_total", "reason"): {str(each) for each in TlsFailure},
    ("cxfr_transfers_total", "outcome"): {str(each) for each in Outcome},
    ("cxfr_transfer_attempts_total", "outcome"): {str(each) for each in Outcome},
    ("cxfr_received_bytes_total", "side"): {side.name.lower() for side in Side},
    ("cxfr_reload_successful", "what"): {str(each) for each in ReloadPart},
    ("cxfr_transfer_attempts_total", "rung"): {str(each) for each in Rung},
    ("cxfr_connections_refused_total", "reason"): {StreamCondition.REMOTE_CONNECTION_FAILED},
    ("cxfr_workers", "state"): {"starting", "up", "leaving", "stopping", "waiting", "gone"},
}
"""Which values of a label may be asked for, where queries do so."""

SELECTOR: Final = re.compile(r"\b(?P<name>(?:cxfr|process)_\w+|up)\b(?:\{(?P<matchers>[^}]*)\})?")
MATCHER: Final = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
GROUPED: Final = re.compile(r"\b(?:by|on|without|ignoring|group_left)\s*\(([^)]*)\)")


def faults(query: str) -> Iterator[str]:
    """Yield what a query asks for in vain."""
    known = set(OF_PROMETHEUS)
    for found in SELECTOR.finditer(GROUPED.sub("", query)):
        name = found["name"]
        metric = SERIES.get(name)
        if name != "up" and (metric is None or (metric.type is MetricType.HISTOGRAM and name in BY_NAME)):
            yield f"no series {name}"
            continue
        labels = labels_of(name, metric)
        known |= labels
        for label, value in MATCHER.findall(found["matchers"] or ""):
            if label not in labels:
                yield f"{name} has no label {label}"
            elif label not in OF_PROMETHEUS:
                for each in value.split("|"):
                    if each not in VALUES[name, label]:
                        yield f"{name} never has {label}={each}"
    for group in GROUPED.findall(query):
        for label in filter(None, re.split(r"[,\s]+", group)):
            if label not in known:
                yield f"nothing has the label {label}"


def labels_of(name: str, metric: Metric | None) -> set[str]:
    own = set(metric.labels) if metric is not None else set()
    return own | OF_PROMETHEUS | ({"le"} if name.endswith("_bucket") else set())


# --- the rules


def rules() -> dict[str, dict[str, str]]:
    """Return the fields of each alert that matter here, by its name. The file keeps to one shape."""
    text = RULES.read_text("utf-8")
    found = {}
    for part in re.split(r"^      - alert: ", text, flags=re.MULTILINE)[1:]:
        name, _, rest = part.partition("\n")
        expression = re.search(r"^        expr: (\|\n(?:          .*\n)+|.*\n)", rest, re.MULTILINE)
        assert expression is not None, name
        fields = dict(re.findall(r"^ +(summary|runbook): (.*)$", rest, re.MULTILINE))
        fields["severity"] = "".join(re.findall(r"labels: \{ severity: (\w+) \}", rest))
        found[name] = fields | {"expr": expression[1].removeprefix("|")}
    return found


ALERTS: Final = rules()


def test_there_are_alerts() -> None:
    assert len(ALERTS) == RULES.read_text("utf-8").count("alert:") > 20


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_asks_for_what_there_is(name: str) -> None:
    assert list(faults(ALERTS[name]["expr"])) == []


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_who_is_called_and_where_to_read_on(name: str) -> None:
    alert = ALERTS[name]
    assert alert["severity"] in ("page", "ticket")
    assert alert["runbook"] == f"docs/alarms.md#{name.lower()}"
    labels = OF_PROMETHEUS.union(*(labels_of(each, SERIES.get(each)) for each in series(alert["expr"])))
    assert set(re.findall(r"\$labels\.(\w+)", alert["summary"])) <= labels


def series(query: str) -> list[str]:
    return [found["name"] for found in SELECTOR.finditer(GROUPED.sub("", query))]


def test_each_alert_is_explained_and_no_other() -> None:
    sections = re.split(r"^## ", ALARMS.read_text("utf-8"), flags=re.MULTILINE)[1:]
    explained = {section.partition("\n")[0]: section for section in sections if section.startswith("Cxfr")}
    assert list(explained) == list(ALERTS), "in the order of the rules"
    for name, section in explained.items():
        for part in ("**Means**", "**Look**", "**Do**"):
            assert part in section, f"{name}: no {part}"


def test_each_alert_has_a_test() -> None:
    tested = re.findall(r"alertname=\"(\w+)\"", RULE_TESTS.read_text("utf-8"))
    assert sorted(tested) == sorted(ALERTS)


@pytest.mark.parametrize("command", [("check", RULES), ("test", RULE_TESTS)], ids=["check", "test"])
def test_prometheus_agrees(command: tuple[str, Path]) -> None:
    require(Need.PROMTOOL)
    verb, path = command
    done = subprocess.run(["promtool", verb, "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# --- the dashboard


def queries(panel: dict[str, Any]) -> Iterator[str]:
    for target in panel.get("targets", ()):
        yield target["expr"].replace("$__rate_interval", "5m")


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return found


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_asks_for_what_there_is(panel: dict[str, Any]) -> None:
    asked = list(queries(panel))
    assert [fault for query in asked for fault in faults(query)] == []
    assert asked or panel["type"] == "row"
    for target in panel.get("targets", ()):
        shown = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
        left = GROUPED.findall(target["expr"])
        labels = set(re.split(r"[,\s]+", left[-1])) if left else labels_of("", SERIES[series(target["expr"])[0]])
        assert shown <= labels, "a legend names a label that the query keeps"


def test_queries_on_pages_ask_for_what_there_is() -> None:
    page = (ROOT / "docs" / "http.md").read_text("utf-8")
    shown = re.findall(r"^(?:sum|rate|increase|topk)\b.*?(?=  +#|$)", page, re.MULTILINE)
    assert len(shown) > 2
    assert [fault for query in shown for fault in faults(query)] == []


def test_panels_stand_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    numbers = [panel["id"] for panel in panels()]
    assert len(set(numbers)) == len(numbers)


NOT_LOOKED_AT: Final = {
    "cxfr_node_weight",  # it is written in the list of nodes
    "cxfr_node_sessions_entered_total",  # the panel of cxfr_node_sessions shows what comes of it
    "cxfr_node_refused_total",  # cxfr_transfer_attempts_total has both, by software
    "cxfr_node_silent_total",
    "cxfr_drain_stage",  # one of a handful of words: show nodes
    "cxfr_worker_connections",  # near cxfr_worker_sessions
    "cxfr_reload_success_timestamp_seconds",  # cxfr_reload_successful is what matters
}


def test_no_metric_is_forgotten() -> None:
    asked = {SERIES[name].name for panel in panels() for query in queries(panel) for name in series(query)}
    asked |= {SERIES[name].name for alert in ALERTS.values() for name in series(alert["expr"]) if name != "up"}
    assert set(BY_NAME) - asked == NOT_LOOKED_AT


# --- what is checked here is checked


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("rate(cxfr_logins[5m])", "no series cxfr_logins"),
        ("cxfr_login_duration_seconds", "no series cxfr_login_duration_seconds"),
        ('cxfr_sessions{node="a"}', "cxfr_sessions has no label node"),
        ('cxfr_node_health{health=~"up|dead"}', "cxfr_node_health never has health=dead"),
        ("sum by (reason, instance) (cxfr_sessions)", "nothing has the label reason"),
        (
            "histogram_quantile(0.9, sum by (le) (rate(cxfr_login_duration_seconds_count[5m])))",
            "nothing has the label le",
        ),
    ],
)
def test_a_query_that_asks_in_vain_is_found(query: str, fault: str) -> None:
    assert list(faults(query)) == [fault]
