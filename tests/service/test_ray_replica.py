"""The adapter for Ray Serve: the number of replicas, a replica's health and statistic, the keys of the configuration.

Most of it runs without Ray, on tests/fake_ray.py. The rest needs a cluster: tests/end_to_end/test_ray_serve.py.
"""

import asyncio
import importlib
import threading
import uuid
import warnings
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from model import PageScores, PreparedRequest, RankingModel, Reranker, score_in_input_order
from service.app import build_app
from service.settings import Settings
from service.startup import LoadModel
from tests.documents import make_image
from tests.fake_ray import FakeAutoscalingConfig, FakeAutoscalingContext, FakeRay, fake_ray
from tests.patience import PATIENCE_SECONDS, until
from tests.servers import fake_loader

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "ray" / "config.yaml"

Wanted = Callable[..., int]


@pytest.fixture
def ray() -> Iterator[FakeRay]:
    with fake_ray() as fake:
        yield fake


def wanted_by_fake() -> Iterator[Wanted]:
    """Replicas for these waits in seconds, one a replica, and requests in progress of which 8 are one replica's."""
    with fake_ray() as ray:

        def wanted(waits: Sequence[float], requests: float) -> int:
            context = FakeAutoscalingContext(
                aggregated_metrics={ray.adapter.WAIT_STATISTIC: by_replica(waits)} if waits else None,
                total_num_requests=requests,
                config=FakeAutoscalingConfig(target_ongoing_requests=8),
            )
            return int(ray.adapter.replicas_for_wait(context)[0])

        yield wanted


def wanted_by_ray() -> Iterator[Wanted]:
    """The same, by the context objects of Ray itself."""
    config: Any = pytest.importorskip("ray.serve.config")  # as this ignores the warnings that Ray's import gives
    with warnings.catch_warnings(action="ignore"):
        adapter: Any = importlib.import_module("service.ray_replica")

    def wanted(waits: Sequence[float], requests: float) -> int:
        nothing = dict.fromkeys(("deployment_id", "app_name", "last_scale_up_time", "last_scale_down_time"))
        context = config.AutoscalingContext(
            **nothing,
            deployment_name="ziprerank",
            current_num_replicas=len(waits),
            target_num_replicas=len(waits),
            running_replicas=[],
            total_num_requests=requests,
            total_queued_requests=0,
            aggregated_metrics=lambda: {adapter.WAIT_STATISTIC: by_replica(waits)} if waits else {},
            raw_metrics=None,
            capacity_adjusted_min_replicas=1,
            capacity_adjusted_max_replicas=9,
            policy_state={},
            current_time=0.0,
            config=config.AutoscalingConfig(target_ongoing_requests=8),
        )
        return int(adapter.replicas_for_wait(context)[0])

    yield wanted


def by_replica(waits: Sequence[float]) -> dict[str, float]:
    return {f"replica-{number}": wait for number, wait in enumerate(waits)}


@pytest.fixture(params=[wanted_by_fake, wanted_by_ray], ids=["fake", "ray"])
def wanted(request: pytest.FixtureRequest) -> Iterator[Wanted]:
    yield from request.param()


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
        ((2.5,), 33, 5),
    ],
)
def test_replicas_share_the_wait_and_keep_what_requests_need(
    wanted: Wanted, waits: tuple[float, ...], requests: float, replicas: int
) -> None:
    assert wanted(waits, requests) == replicas


# A replica


class Gate:
    """A forward pass that waits until the test opens it."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.opened.set()

    def __call__(self, batch: Sequence[PreparedRequest]) -> list[PageScores]:
        assert self.opened.wait(PATIENCE_SECONDS)
        return score_in_input_order(batch)


@pytest.fixture
def build(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> Callable[[LoadModel], Any]:
    """Makes a replica as Ray would, in this process: with a model of the test's, and neither logging nor port of its own."""
    monkeypatch.setenv("ZIPRERANK_DEVICE", "cpu")
    monkeypatch.setenv("ZIPRERANK_RASTERIZER_PROCESSES", "1")
    monkeypatch.setenv("ZIPRERANK_DOCUMENT_STORE", f"memory://{uuid.uuid4().hex}")
    monkeypatch.setattr(ray.adapter, "configure_logging", lambda level: None)
    monkeypatch.setattr(ray.adapter, "start_http_server", lambda port, registry: None)

    def build_with(load: LoadModel) -> Any:
        monkeypatch.setattr(ray.adapter, "build_app", lambda settings: build_app(settings, load=load))
        return ray.adapter.Replica()

    return build_with


def served(replica: Any, use: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]) -> None:
    """Run `use` while the replica's application runs, as the server does that Ray gives it to."""
    app = replica.__serve_build_asgi_app__()

    async def run() -> None:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://replica", timeout=60) as client,
        ):
            await use(client)

    asyncio.run(run())


async def rerank_image(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/rerank", data={"query": "a"}, files=[("file", ("a.png", make_image(64, 64)))])


def test_the_first_check_waits_for_the_model_and_a_failed_replica_fails_its_check(
    ray: FakeRay, build: Callable[[LoadModel], Any], reranker: Reranker
) -> None:
    may_load = threading.Event()

    def slow_load(settings: Settings) -> RankingModel:
        assert may_load.wait(PATIENCE_SECONDS)
        return fake_loader(reranker)(settings)

    replica = build(slow_load)

    async def check(client: httpx.AsyncClient) -> None:
        first = asyncio.create_task(replica.check_health())
        assert (await client.get("/readyz")).status_code == 503 and not first.done()
        may_load.set()
        await asyncio.wait_for(first, PATIENCE_SECONDS)
        assert (await client.get("/readyz")).status_code == 200
        replica._app.state.service.lifecycle.fail()
        with pytest.raises(ray.adapter.NotServingError, match="gpu_failed"):
            await replica.check_health()

    served(replica, check)


def test_a_check_that_is_given_up_does_not_stop_the_loading(
    build: Callable[[LoadModel], Any], reranker: Reranker
) -> None:
    may_load = threading.Event()

    def slow_load(settings: Settings) -> RankingModel:
        assert may_load.wait(PATIENCE_SECONDS)
        return fake_loader(reranker)(settings)

    replica = build(slow_load)

    async def check(client: httpx.AsyncClient) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(replica.check_health(), 0.01)  # as Ray does, after its own time
        may_load.set()
        await asyncio.wait_for(replica.check_health(), PATIENCE_SECONDS)

    served(replica, check)


def test_a_replica_reports_to_ray_how_long_its_queued_work_takes(
    ray: FakeRay, build: Callable[[LoadModel], Any], reranker: Reranker
) -> None:
    gate = Gate()
    replica = build(fake_loader(reranker, gate))

    def wait() -> float:
        [(name, seconds)] = replica.record_autoscaling_stats().items()
        assert name == ray.adapter.WAIT_STATISTIC
        return float(seconds)

    async def ask(client: httpx.AsyncClient) -> None:
        await replica.check_health()
        assert (await rerank_image(client)).status_code == 200  # a rate is measured
        assert wait() == 0
        gate.opened.clear()
        requests = [asyncio.create_task(rerank_image(client))]
        await until(lambda: replica._service.worker.running_windows == 1)  # else it could share the others' batch
        requests += [asyncio.create_task(rerank_image(client)) for _ in range(2)]
        await until(lambda: wait() > 0)
        gate.opened.set()
        assert [answer.status_code for answer in await asyncio.gather(*requests)] == [200] * 3
        assert wait() == 0

    served(replica, ask)


def test_a_replica_answers_under_the_name_that_ray_gave_it(
    ray: FakeRay, build: Callable[[LoadModel], Any], reranker: Reranker
) -> None:
    ray.replica = "ziprerank-q4x"
    replica = build(fake_loader(reranker))

    async def ask(client: httpx.AsyncClient) -> None:
        answer = await client.get("/livez")
        assert answer.headers["x-ziprerank-replica"] == "ziprerank-q4x"

    served(replica, ask)


def test_each_replica_of_a_node_has_a_port_for_its_own_metrics_and_does_without_where_it_is_taken(
    ray: FakeRay,
    build: Callable[[LoadModel], Any],
    reranker: Reranker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ports: dict[int, Any] = {}

    def listen(port: int, registry: Any) -> None:
        if port in ports:
            raise OSError(98, "Address already in use")
        ports[port] = registry

    monkeypatch.setattr(ray.adapter, "start_http_server", listen)
    replicas = []
    for ray.local_rank in (0, 1, 1):
        replicas.append(build(fake_loader(reranker)))
    assert list(ports) == [ray.adapter.METRICS_PORT, ray.adapter.METRICS_PORT + 1]
    own = [replica._app.state.service.metrics.registry for replica in replicas]
    assert list(ports.values()) == own[:2] and own[0] is not own[1]
    assert f"no metrics on port {ray.adapter.METRICS_PORT + 1}: Address already in use" in caplog.text


def test_ray_sends_what_a_replica_takes_and_waits_as_long_as_it_drains(ray: FakeRay) -> None:
    assert ray.adapter.Replica is ray.adapter.application
    settings = Settings()
    assert ray.options["max_ongoing_requests"] == settings.max_concurrent_requests
    assert ray.options["graceful_shutdown_timeout_s"] > settings.drain_delay_seconds + settings.drain_grace_seconds


# The configuration


def test_serve_knows_every_key_of_the_configuration() -> None:
    """Ray checks types alone and ignores a misspelt name, so the names are compared here."""
    config: Any = pytest.importorskip("ray.serve.config")
    schema: Any = pytest.importorskip("ray.serve.schema")
    yaml: Any = pytest.importorskip("yaml")
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


def test_the_paths_of_the_configuration_name_what_the_adapter_has(ray: FakeRay) -> None:
    yaml: Any = pytest.importorskip("yaml")
    application = yaml.safe_load(CONFIGURATION.read_text())["applications"][0]
    [deployment] = application["deployments"]
    paths = application["import_path"], deployment["autoscaling_config"]["policy"]["policy_function"]
    assert [path.partition(":")[0] for path in paths] == ["service.ray_replica"] * 2
    assert [getattr(ray.adapter, path.partition(":")[2]) for path in paths] == [
        ray.adapter.application,
        ray.adapter.replicas_for_wait,
    ]
    assert deployment["name"] == ray.options["name"]
