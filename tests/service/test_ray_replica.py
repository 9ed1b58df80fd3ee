"""The rule for the number of replicas, and the keys of the configuration.

The rest of the adapter needs a cluster: tests/end_to_end/test_ray_serve.py.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest

config = pytest.importorskip("ray.serve.config")  # as this ignores the warnings that Ray's import gives
schema = pytest.importorskip("ray.serve.schema")
yaml = pytest.importorskip("yaml")

from service.ray_replica import WAIT_STATISTIC, replicas_for_wait  # noqa: E402

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "ray" / "config.yaml"


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


def test_serve_knows_every_key_of_the_configuration() -> None:
    """Ray checks types alone and ignores a misspelt name, so the names are compared here."""
    content = yaml.safe_load(CONFIGURATION.read_text())
    schema.ServeDeploySchema.model_validate(content)
    application = content["applications"][0]
    deployment = application["deployments"][0]
    for part, model in (
        (content, schema.ServeDeploySchema),
        (content["http_options"], schema.HTTPOptionsSchema),
        (application, schema.ServeApplicationSchema),
        (deployment, schema.DeploymentSchema),
        (deployment["ray_actor_options"], schema.RayActorOptionsSchema),
        (deployment["autoscaling_config"], config.AutoscalingConfig),
        (deployment["autoscaling_config"]["policy"], config.AutoscalingPolicy),
    ):
        assert part.keys() <= model.model_fields.keys()
