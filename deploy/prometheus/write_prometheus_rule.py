"""Writes the rules of this folder as a PrometheusRule for the Prometheus Operator: one source, two forms.

    python deploy/prometheus/write_prometheus_rule.py

A check compares the two (tests/deploy/test_prometheus_rules.py).
"""

from pathlib import Path

import yaml

_HERE = Path(__file__).parent
RULES = _HERE / "rules" / "ziprerank.yml"
PROMETHEUS_RULE = _HERE.parent / "kubernetes" / "components" / "monitoring" / "prometheus-rule.yaml"

_HEAD = """\
# Written by deploy/prometheus/write_prometheus_rule.py from deploy/prometheus/rules/ziprerank.yml: change that one.
# The operator's Prometheus must select this namespace and these labels (ruleSelector).
"""


def prometheus_rule() -> str:
    """The resource as YAML."""
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "ziprerank"},
        "spec": yaml.safe_load(RULES.read_text()),
    }
    text: str = _HEAD + yaml.safe_dump(resource, sort_keys=False, width=120, allow_unicode=True)
    return text


if __name__ == "__main__":
    PROMETHEUS_RULE.write_text(prometheus_rule())
