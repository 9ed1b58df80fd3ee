"""The service as a Ray Serve deployment: one replica a GPU, each with the same application that `ziprerank serve` runs.

Ray starts the replicas, sends requests with one affinity key to one of them, replaces failed ones, and keeps as many as the
service's own statistic asks for. No other module imports Ray (extra `[ray]`); deploy/ray shows how to run it.
"""

import asyncio
import logging
import math
from typing import Any

from prometheus_client import start_http_server
from ray import serve
from ray.serve.config import AutoscalingContext, BackpressureConfig, RequestRouterConfig
from starlette.types import ASGIApp

from service.app import build_app
from service.logs import configure_logging
from service.settings import read_settings
from service.startup import Service

WAIT_STATISTIC = "estimated_wait_seconds"
MOST_WAIT_SECONDS = 1.0
"""Seconds of queued work per replica, on average: the same threshold as in the ScaledObject of deploy/kubernetes."""

METRICS_PORT = 9400
"""Port of the node's first replica; the next has 9401. Behind Ray's proxy, `/metrics` is that of an arbitrary replica."""

_ROUTER = RequestRouterConfig(
    request_router_class="ray.serve.experimental.consistent_hash_router.ConsistentHashRouter",
    request_router_kwargs={"num_virtual_nodes": 100, "num_fallback_replicas": 2},
)

logger = logging.getLogger(__name__)


class NotServingError(Exception):
    """This replica cannot serve; Ray should replace it."""


# A replica works on 64 requests at once by its own settings. Ray queues further requests, and refuses those above the limit of
# its queue. The shutdown is longer than the drain of a request may take (45 s).
@serve.deployment(
    name="ziprerank",
    ray_actor_options={"num_gpus": 1},
    request_router_config=_ROUTER,
    max_ongoing_requests=64,
    max_queued_requests=256,
    backpressure_config=BackpressureConfig(status_code=429, retry_after_s=2),
    health_check_period_s=5,
    health_check_timeout_s=10,
    graceful_shutdown_timeout_s=60,
)
@serve.ingress()
class Replica:
    """Built in the replica's own process, so that no part of it is pickled. Settings come from its environment."""

    def __init__(self) -> None:
        context = serve.get_replica_context()
        settings = read_settings({}).model_copy(update={"replica": context.replica_id.unique_id})
        configure_logging(settings.log_level)
        self._app = build_app(settings)
        self._service: Service = self._app.state.service
        self._serve_metrics(METRICS_PORT + context.rank.local_rank)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._app

    async def check_health(self) -> None:
        """Ray's first check ends when the model is loaded; Ray sends no request before. Raises: NotServingError."""
        loading: asyncio.Task[None] = self._app.state.loading
        await asyncio.shield(loading)
        if obstacle := self._service.readiness.obstacle():
            raise NotServingError(f"{obstacle.code}: {obstacle.message}")

    def record_autoscaling_stats(self) -> dict[str, float]:
        return {WAIT_STATISTIC: self._service.batcher.estimated_wait_seconds}

    def _serve_metrics(self, port: int) -> None:
        """Listen for scrapes. A port in use is only logged: a replica without metrics is better than none."""
        try:
            start_http_server(port, registry=self._service.metrics.registry)
        except OSError as error:
            logger.warning("no metrics on port %d: %s", port, error.strerror)


def replicas_for_wait(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """As many replicas as keep the queued work below `MOST_WAIT_SECONDS` for each; Ray applies its bounds and delays.

    The queues of replicas that just keep up are empty, so the replicas that the requests in progress need are kept too. Ray
    runs a copy of this function in its controller, without the rest of this module.
    """
    waits = (context.aggregated_metrics or {}).get(WAIT_STATISTIC, {})
    for_wait = math.ceil(sum(waits.values()) / MOST_WAIT_SECONDS)
    for_requests = math.ceil(context.total_num_requests / context.config.get_target_ongoing_requests())
    return max(1, for_wait, for_requests), {}


application = Replica.bind()  # type: ignore[attr-defined]  # of the deployment, which mypy sees as the class
