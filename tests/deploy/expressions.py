"""Where PromQL is written in this repository, and which series it names."""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.deploy.tools import DEPLOY

RULES = DEPLOY / "prometheus" / "rules" / "ziprerank.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "ziprerank.json"


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def recordings() -> list[str]:
    return [rule["record"] for rule in rules() if "record" in rule]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text())


def panels() -> list[dict[str, Any]]:
    """What draws something: no rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def dashboard_queries(*, interval: str, everything: str = ".*") -> Iterator[tuple[str, str]]:
    """Each panel's title and expression, with Grafana's variables filled in."""
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", interval)
            yield panel["title"], re.sub(r"\$(job|instance)\b", everything, expression)


def series_in(expression: str) -> set[str]:
    """Our series, recorded ones included. What stands in quotes is a label's value."""
    bare = re.sub(r'"[^"]*"|\'[^\']*\'', "", expression)
    return {name for name in re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", bare) if "ziprerank" in name}
