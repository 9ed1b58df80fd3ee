"""deploy/ray against the schemas that will read it. What it does is tested in tests/end_to_end/test_ray_serve.py."""

import json
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "deploy" / "ray"
SCHEMA = PROJECT.parent / "shared" / "schemas" / "ray.io_v1_rayservice.json"


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return content


def test_the_manifest_carries_the_configuration_unchanged() -> None:
    assert yaml.safe_load(read("rayservice.yaml")["spec"]["serveConfigV2"]) == read("config.yaml")


def test_serve_knows_every_key_of_the_configuration() -> None:
    """Ray checks types alone and ignores a misspelt name, so the names are compared here."""
    schema = pytest.importorskip("ray.serve.schema")
    config = pytest.importorskip("ray.serve.config")
    content = read("config.yaml")
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


def test_the_manifest_fits_kuberays_schema() -> None:
    validators = pytest.importorskip("jsonschema")
    if not SCHEMA.exists():
        pytest.skip("the schemas are not on this machine")
    validators.validate(read("rayservice.yaml"), json.loads(SCHEMA.read_text()))


def test_a_replica_fits_on_its_worker() -> None:
    """One GPU a replica and a pod, CPUs left for Ray's own processes, the metrics' port open."""
    actor = read("config.yaml")["applications"][0]["deployments"][0]["ray_actor_options"]
    template = read("rayservice.yaml")["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    worker = template["containers"][0]
    assert actor["num_gpus"] == int(worker["resources"]["limits"]["nvidia.com/gpu"]) == 1
    assert actor["num_cpus"] < int(worker["resources"]["requests"]["cpu"])
    assert {mount["name"] for mount in worker["volumeMounts"]} == {volume["name"] for volume in template["volumes"]}
