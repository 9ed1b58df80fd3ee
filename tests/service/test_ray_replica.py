"""The rule for the number of replicas. The rest of the adapter needs a cluster: tests/end_to_end/test_ray_serve.py."""

from types import SimpleNamespace

import pytest

config = pytest.importorskip("ray.serve.config")  # as this ignores the warnings that Ray's import gives

from service.ray_replica import WAIT_STATISTIC, replicas_for_wait  # noqa: E402


def wanted(*waits: float, requests: float = 0) -> int:
    """Replicas for these waits in seconds, one a replica, and requests in progress of which 8 are one replica's."""
    context = SimpleNamespace(
        aggregated_metrics={WAIT_STATISTIC: {f"replica-{n}": wait for n, wait in enumerate(waits)}},
        total_num_requests=requests,
        config=config.AutoscalingConfig(target_ongoing_requests=8),
    )
    return replicas_for_wait(context)[0]


@pytest.mark.parametrize(
    ("waits", "requests", "replicas"),
    [
        ((), 0, 1),
        ((0.0, 0.0), 0, 1),
        ((0.9,), 0, 1),
        ((2.5,), 0, 3),  # seconds of work, one for each replica
        ((0.5, 0.5, 0.5), 0, 2),
        ((0.0, 0.0), 16, 2),  # they keep up, and are needed for that
        ((0.0, 0.0), 17, 3),
    ],
)
def test_replicas_share_the_wait_and_keep_what_requests_need(
    waits: tuple[float, ...], requests: float, replicas: int
) -> None:
    assert wanted(*waits, requests=requests) == replicas
