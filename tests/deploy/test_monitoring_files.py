"""Rules, alerts, dashboard and autoscalers: valid for the tools that read them, and about series that exist."""

import re
from typing import Any

import pytest
import yaml

from deploy.prometheus.write_prometheus_rule import PROMETHEUS_RULE, prometheus_rule
from tests.deploy.expressions import (
    DASHBOARD,
    RULES,
    alerts,
    dashboard,
    dashboard_queries,
    panels,
    recordings,
    rules,
    series_in,
)
from tests.deploy.tools import DEPLOY, run

PROMETHEUS = DEPLOY / "prometheus"
RULE_TESTS = PROMETHEUS / "tests" / "ziprerank_test.yml"
README = DEPLOY / "README.md"
SCALED_OBJECT = DEPLOY / "kubernetes" / "components" / "keda" / "scaled-object.yaml"
ADAPTER = DEPLOY / "kubernetes" / "components" / "hpa" / "adapter-values.yaml"
AUTOSCALER = DEPLOY / "kubernetes" / "components" / "hpa" / "horizontal-pod-autoscaler.yaml"


def test_prometheus_reads_the_configuration_and_the_rules() -> None:
    run("promtool", "check", "config", PROMETHEUS / "prometheus.yml")
    run("promtool", "check", "rules", RULES)


def test_the_rules_do_what_their_tests_say() -> None:
    run("promtool", "test", "rules", RULE_TESTS)


def test_a_wrong_threshold_fails_the_rule_tests(tmp_path: Any) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "rules" / RULES.name).write_text(RULES.read_text().replace("> 0.01", "> 0.5"))
    copy = tmp_path / "tests" / RULE_TESTS.name
    copy.write_text(RULE_TESTS.read_text())
    with pytest.raises(AssertionError, match="ZipRerankRefusing"):
        run("promtool", "test", "rules", copy)


def test_every_alert_is_tested_to_fire_and_to_be_silent() -> None:
    cases = [
        case for test in yaml.safe_load(RULE_TESTS.read_text())["tests"] for case in test.get("alert_rule_test", [])
    ]
    names = {alert["alert"] for alert in alerts()}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names


def test_every_recording_is_tested() -> None:
    tests = yaml.safe_load(RULE_TESTS.read_text())["tests"]
    tested = {name for test in tests for case in test.get("promql_expr_test", []) for name in series_in(case["expr"])}
    assert tested == set(recordings())


def test_every_alert_leads_to_its_paragraph_in_the_runbook() -> None:
    anchors = {anchor(heading) for heading in re.findall(r"^#+ (.*)$", README.read_text(), re.MULTILINE)}
    for alert in alerts():
        page, _, paragraph = alert["annotations"]["runbook"].partition("#")
        assert page == "deploy/README.md" and paragraph in anchors, alert["alert"]
        assert alert["labels"]["severity"] in ("critical", "warning")


def anchor(heading: str) -> str:
    """As the usual renderers of Markdown make them."""
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


def test_the_prometheus_rule_is_the_same_rules() -> None:
    assert PROMETHEUS_RULE.read_text() == prometheus_rule(), "run python deploy/prometheus/write_prometheus_rule.py"


def test_rules_and_dashboard_name_series_that_exist(live_series: set[str]) -> None:
    known = live_series | set(recordings())
    named = {f"rule {rule.get('alert') or rule['record']}": series_in(rule["expr"]) for rule in rules()}
    for title, expression in dashboard_queries(interval="1m"):
        named.setdefault(f"panel {title}", set()).update(series_in(expression))
    assert {where: names - known for where, names in named.items() if names - known} == {}


def test_the_autoscalers_name_series_that_exist(live_series: set[str]) -> None:
    triggers = yaml.safe_load(SCALED_OBJECT.read_text())["spec"]["triggers"]
    queries = [trigger["metadata"]["query"] for trigger in triggers]
    queries += [rule["seriesQuery"] for rule in adapter_rules()]
    assert len(queries) == 4
    for query in queries:
        assert series_in(query) and series_in(query) <= live_series


def test_the_adapter_defines_what_the_autoscaler_asks_for() -> None:
    asked = [
        metric["external"]["metric"]["name"] for metric in yaml.safe_load(AUTOSCALER.read_text())["spec"]["metrics"]
    ]
    assert asked == [rule["name"]["as"] for rule in adapter_rules()]
    for rule in adapter_rules():
        assert rule["metricsQuery"].startswith("sum(") and "<<.LabelMatchers>>" in rule["metricsQuery"]


def adapter_rules() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = yaml.safe_load(ADAPTER.read_text())["rules"]["external"]
    return rules


def test_prometheus_can_parse_every_expression_of_the_dashboard(tmp_path: Any) -> None:
    groups = [
        {"record": f"panel:{number}", "expr": query}
        for number, (_, query) in enumerate(dashboard_queries(interval="1m"))
    ]
    written = tmp_path / "dashboard.yml"
    written.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": groups}]}))
    assert f"{len(groups)} rules found" in run("promtool", "check", "rules", written)


def test_the_dashboard_follows_the_way_of_a_request() -> None:
    rows = [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]
    assert rows == ["Traffic", "Where time goes", "Batches", "Cache", "GPU", "Refusals"]


def test_the_dashboard_works_with_any_data_source_and_says_what_it_shows() -> None:
    assert '"uid": "prometheus"' not in DASHBOARD.read_text()
    assert dashboard()["uid"] == "ziprerank" and dashboard()["refresh"]
    for panel in panels():
        assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert {source["datasource"]["uid"] for source in (panel, *panel["targets"])} == {"${datasource}"}, panel[
            "title"
        ]


def test_no_two_panels_of_the_dashboard_overlap() -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard()["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) == 23
    numbers = [panel["id"] for panel in dashboard()["panels"]]
    assert len(numbers) == len(set(numbers))
