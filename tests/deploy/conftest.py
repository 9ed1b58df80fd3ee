"""The checks of `make check-deploy`, which brings the tools that they need. Elsewhere they are skipped, there never."""

import os
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.fleet import Fleet, running_fleet
from tests.patience import PATIENCE_SECONDS

_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("REQUIRE_DEPLOY_TOOLS") == "1":
        return
    skip = pytest.mark.skip(reason="needs the deployment tools (make check-deploy runs these)")
    for item in items:
        if item.nodeid.startswith("tests/deploy/"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three replicas behind the balancer, for all tests: each process costs seconds to start."""
    with running_fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet


@pytest.fixture(scope="session")
def live_series(fleet: Fleet) -> set[str]:
    """The names of all series that a running service exports, whether they have samples yet or not."""
    text = httpx.get(f"http://127.0.0.1:{fleet.ports[0]}/metrics", timeout=PATIENCE_SECONDS).text
    families = text_string_to_metric_families(text)
    return {family.name + suffix for family in families for suffix in _SUFFIXES.get(family.type, ("",))}
