"""deploy/ray against the schema that will read it. What it does is tested in tests/end_to_end/test_ray_serve.py."""

from pathlib import Path
from typing import Any

import pytest

from tests.deploy.json_schemas import faults_by_schema

yaml = pytest.importorskip("yaml")

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "deploy" / "ray"


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return content


def test_the_manifest_carries_the_configuration_unchanged() -> None:
    assert yaml.safe_load(read("rayservice.yaml")["spec"]["serveConfigV2"]) == read("config.yaml")


def test_the_manifest_fits_kuberays_schema() -> None:
    assert faults_by_schema(read("rayservice.yaml"), "ray.io_v1_rayservice") == []


def test_a_replica_fits_on_its_worker() -> None:
    """One GPU a replica and a pod, CPUs left for Ray's own processes, the metrics' port open."""
    actor = read("config.yaml")["applications"][0]["deployments"][0]["ray_actor_options"]
    template = read("rayservice.yaml")["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    worker = template["containers"][0]
    assert actor["num_gpus"] == int(worker["resources"]["limits"]["nvidia.com/gpu"]) == 1
    assert actor["num_cpus"] < int(worker["resources"]["requests"]["cpu"])
    assert {mount["name"] for mount in worker["volumeMounts"]} == {volume["name"] for volume in template["volumes"]}
