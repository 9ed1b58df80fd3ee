"""As much of Ray Serve as `service.ray_replica` needs to be imported and built without it, in this process and thread.

`Replica` stays the plain class that it is written as. What Ray itself does with it is tested on a cluster, in
tests/end_to_end/test_ray_serve.py.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any, TypeVar

import pytest

Deployed = TypeVar("Deployed", bound=type)


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeAutoscalingConfig:
    target_ongoing_requests: float

    def get_target_ongoing_requests(self) -> float:
        return self.target_ongoing_requests


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeAutoscalingContext:
    """The fields that a policy of ours may read."""

    aggregated_metrics: dict[str, dict[str, float]] | None
    total_num_requests: float
    config: FakeAutoscalingConfig


@dataclass(slots=True, kw_only=True)
class FakeRay:
    """`adapter` is `service.ray_replica`, `options` are those of its deployment."""

    options: dict[str, Any] = field(default_factory=dict)
    replica: str = "replica-7"
    local_rank: int = 0

    @property
    def adapter(self) -> Any:
        return importlib.import_module("service.ray_replica")

    def get_replica_context(self) -> SimpleNamespace:
        return SimpleNamespace(
            replica_id=SimpleNamespace(unique_id=self.replica), rank=SimpleNamespace(local_rank=self.local_rank)
        )

    def deployment(self, **options: Any) -> Callable[[Deployed], Deployed]:
        self.options.update(options)

        def with_bind(replica: Deployed) -> Deployed:
            replica.bind = classmethod(lambda cls: cls)  # type: ignore[attr-defined]
            return replica

        return with_bind


@contextmanager
def fake_ray() -> Iterator[FakeRay]:
    """In place of Ray, also where that is installed, until the end."""
    ray = FakeRay()
    serve = _module("ray.serve", deployment=ray.deployment, get_replica_context=ray.get_replica_context)
    serve.__dict__["ingress"] = lambda: lambda replica: replica
    config = _module(
        "ray.serve.config", AutoscalingContext=FakeAutoscalingContext, BackpressureConfig=dict, RequestRouterConfig=dict
    )
    with pytest.MonkeyPatch.context() as patch:
        for module in (_module("ray", serve=serve), serve, config):
            patch.setitem(sys.modules, module.__name__, module)
        patch.delitem(sys.modules, "service.ray_replica", raising=False)
        yield ray
        sys.modules.pop("service.ray_replica", None)


def _module(name: str, **contents: Any) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(contents)
    return module
