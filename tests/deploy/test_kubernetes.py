"""Every overlay, built by kubectl, read by the validators, and held against the service."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.deploy.fleet import Fleet
from tests.deploy.json_schemas import custom_resource_schema, faults_by_schema, is_known, require_published
from tests.deploy.kubernetes_objects import OVERLAYS, VERSIONS, faults_by_kubernetes, is_custom, resources_of
from tests.deploy.kubernetes_semantics import Resource, faults
from tests.deploy.processes import answers

overlays = pytest.mark.parametrize("overlay", OVERLAYS)


@overlays
@pytest.mark.parametrize("version", VERSIONS)
def test_the_kinds_of_kubernetes_are_valid(overlay: str, version: str) -> None:
    core = [resource for resource in resources_of(overlay) if not is_custom(resource)]
    assert faults_by_kubernetes(core, version) == []


@overlays
def test_the_custom_resources_are_valid(overlay: str) -> None:
    custom = [resource for resource in resources_of(overlay) if is_custom(resource)]
    names = [custom_resource_schema(resource) for resource in custom]
    if not all(map(is_known, names)):
        require_published()
    found = [faults_by_schema(resource, name) for resource, name in zip(custom, names, strict=True)]
    assert found == [[] for _ in custom]


@overlays
def test_the_resources_fit_each_other_and_the_service(overlay: str) -> None:
    assert faults(resources_of(overlay)) == []


def test_an_unknown_kind_is_a_fault() -> None:
    misspelt = {**of(resources_of("base"), "Deployment"), "kind": "Deploiment"}
    assert "deploiment" in str(faults_by_kubernetes([misspelt], VERSIONS[0])).lower()


def test_a_misspelt_field_is_a_fault() -> None:
    deployment = of(resources_of("base"), "Deployment")
    pod([deployment])["terminationGraceSeconds"] = 75
    assert "terminationGraceSeconds" in str(faults_by_kubernetes([deployment], VERSIONS[0]))


def test_a_misspelt_field_of_a_custom_resource_is_a_fault() -> None:
    require_published()
    [scaled] = [resource for resource in resources_of("overlays/keda") if resource["kind"] == "ScaledObject"]
    scaled["spec"]["minReplicasCount"] = scaled["spec"].pop("minReplicaCount")
    assert "minReplicasCount" in str(faults_by_schema(scaled, custom_resource_schema(scaled)))


def test_the_probes_and_gateways_ask_for_paths_that_the_service_has(fleet: Fleet) -> None:
    paths = {path for overlay in OVERLAYS for path in probed_paths(resources_of(overlay))}
    assert {"/livez", "/readyz", "/metrics"} <= paths
    assert [path for path in paths if not answers(f"http://127.0.0.1:{fleet.ports[0]}{path}")] == []


def probed_paths(value: Any) -> list[str]:
    """Every `path` that is asked with GET: of probes, health checks and metrics."""
    if isinstance(value, list):
        return [path for item in value for path in probed_paths(item)]
    if not isinstance(value, dict):
        return []
    own = [value["path"]] if isinstance(value.get("path"), str) else []
    return own + [path for item in value.values() for path in probed_paths(item)]


def of(resources: list[Resource], kind: str) -> Any:
    return next(resource for resource in resources if resource["kind"] == kind)


def container(resources: list[Resource]) -> Any:
    return of(resources, "Deployment")["spec"]["template"]["spec"]["containers"][0]


def pod(resources: list[Resource]) -> Any:
    return of(resources, "Deployment")["spec"]["template"]["spec"]


FAULTS: dict[str, tuple[Callable[[list[Resource]], Any], str]] = {
    "selector": (lambda r: of(r, "Service")["spec"].update(selector={"app": "x"}), "Service ziprerank does not select"),
    "budget": (
        lambda r: of(r, "PodDisruptionBudget")["spec"].update(selector={"matchLabels": {"app": "x"}}),
        "PodDisruptionBudget ziprerank does not select",
    ),
    "port": (lambda r: container(r)["ports"][0].update(name="web"), "no port http"),
    "listening": (lambda r: container(r)["ports"][0].update(containerPort=80), "listens on 8000"),
    "mount": (lambda r: container(r)["volumeMounts"][0].update(name="model"), "which is no volume"),
    "claim": (
        lambda r: pod(r)["volumes"][0].update(persistentVolumeClaim={"claimName": "x"}),
        "no PersistentVolumeClaim x",
    ),
    "grace": (lambda r: pod(r).update(terminationGracePeriodSeconds=30), "30 s to stop and needs 60"),
    "memory": (
        lambda r: container(r)["resources"].update(
            limits={"memory": "24Gi", "nvidia.com/gpu": "1"}, requests={"memory": "24Gi"}
        ),
        "the memory limit is 24Gi",
    ),
    "links": (lambda r: pod(r).pop("enableServiceLinks"), "variables from Services"),
    "root": (lambda r: pod(r)["securityContext"].update(runAsUser=0), "10001:0"),
    "writable": (lambda r: container(r)["securityContext"].pop("readOnlyRootFilesystem"), "not locked down"),
    "setting": (lambda r: container(r)["env"].append({"name": "ZIPRERANK_MAX_PAGE", "value": "5"}), "did you mean"),
    "value": (
        lambda r: container(r)["env"].append({"name": "ZIPRERANK_KEEP_RATIO", "value": "7"}),
        "refuses its settings",
    ),
    "store": (
        lambda r: container(r)["env"].append({"name": "ZIPRERANK_DOCUMENT_STORE", "value": "/data"}),
        "ZIPRERANK_DOCUMENT_STORE=/data is on no volume",
    ),
    "replicas": (lambda r: of(r, "Deployment")["spec"].update(replicas=3), "each apply undoes the autoscaler"),
    "namespace": (
        lambda r: [
            resource["metadata"].update(namespace="shop") for resource in r if "namespace" in resource["metadata"]
        ],
        "not about the namespace shop",
    ),
    "no namespace": (
        lambda r: of(r, "ScaledObject")["metadata"].pop("namespace"),
        "ScaledObject ziprerank has no namespace",
    ),
    "query": (
        lambda r: of(r, "ScaledObject")["spec"]["triggers"][1]["metadata"].update(
            query='ziprerank_estimated_wait_seconds{namespace="ziprerank"}'
        ),
        "one number for each pod",
    ),
    "backend": (
        lambda r: of(r, "HTTPRoute")["spec"]["rules"][0]["backendRefs"][0].update(port=80),
        "has the port 80",
    ),
    "timeout": (
        lambda r: of(r, "BackendTrafficPolicy")["spec"]["timeout"]["http"].update(requestTimeout="15s"),
        "gives up after 15 s",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_semantic_check_finds(fault: str) -> None:
    resources = copy.deepcopy(resources_of("overlays/production"))
    change, said = FAULTS[fault]
    change(resources)
    assert said in "\n".join(faults(resources))
