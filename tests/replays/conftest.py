"""Two services for all replays: one requires a key, the other is for programs that send none."""

from collections.abc import Iterator

import pytest

from model import Reranker
from tests.replays.services import KEY, replay_service
from tests.servers import RunningService


@pytest.fixture(scope="session")
def service(reranker: Reranker) -> Iterator[RunningService]:
    with replay_service(reranker, key=KEY) as running:
        yield running


@pytest.fixture(scope="session")
def open_service(reranker: Reranker) -> Iterator[RunningService]:
    with replay_service(reranker, key=None) as running:
        yield running
