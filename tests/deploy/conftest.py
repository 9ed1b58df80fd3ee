"""The checks of `make check-deploy`, which brings the tools that they need. Elsewhere they are skipped, there never."""

import os
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.processes import answers, eventually
from tests.servers import RunningService, running_service

_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("REQUIRE_DEPLOY_TOOLS") == "1":
        return
    skip = pytest.mark.skip(reason="needs the deployment tools (make check-deploy runs these)")
    for item in items:
        if item.nodeid.startswith("tests/deploy/"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def live_service() -> Iterator[RunningService]:
    with running_service(wait=False) as service:
        eventually(lambda: answers(f"{service.url}/readyz"))
        yield service


@pytest.fixture(scope="session")
def live_series(live_service: RunningService) -> set[str]:
    """The names of all series that a running service exports, whether they have samples yet or not."""
    families = text_string_to_metric_families(live_service.client.get("/metrics").text)
    return {family.name + suffix for family in families for suffix in _SUFFIXES.get(family.type, ("",))}
