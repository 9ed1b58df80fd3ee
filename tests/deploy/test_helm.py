"""The Helm chart, rendered by Helm's own engine (Helm 4 as a Python package): the same objects as the Kustomize overlays."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.deploy.json_schemas import custom_resource_schema, faults_by_schema, is_known, require_published
from tests.deploy.kubernetes_objects import OVERLAYS, VERSIONS, faults_by_kubernetes, is_custom, resources_of
from tests.deploy.kubernetes_semantics import Resource, faults
from tests.deploy.tools import DEPLOY, ROOT

CHART = DEPLOY / "helm" / "ziprerank"
Values = dict[str, Any]

WEIGHTS_IMAGE = f"registry.example.com/ziprerank-weights@sha256:{'0' * 64}"
MONITORED: Values = {"monitoring": {"enabled": True}}
VALUES: dict[str, Values] = {
    "base": {},
    "overlays/envoy-gateway": {"gateway": {"type": "envoy-gateway"}},
    "overlays/hpa": {"autoscaling": {"type": "hpa"}} | MONITORED,
    "overlays/image-volume": {"model": {"image": {"reference": WEIGHTS_IMAGE}}},
    "overlays/istio": {"gateway": {"type": "istio"}},
    "overlays/keda": {"autoscaling": {"type": "keda"}} | MONITORED,
    "overlays/production": yaml.safe_load((CHART / "values-production.yaml").read_text()),
}
"""The values that render what an overlay holds."""

LABELS_OF_THE_CHART = {"helm.sh/chart", "app.kubernetes.io/instance", "app.kubernetes.io/managed-by"}
ANNOTATIONS_OF_THE_CHART = {"helm.sh/resource-policy"}
HASHED_NAMES = re.compile(r"^(ziprerank-(?:settings|weights))-[0-9a-z]{10}$")
"""ConfigMaps, whose hashes Kustomize and the chart compute differently, and the chart's Job."""

EVERYTHING: Values = {
    "image": {"pullPolicy": "Always", "pullSecrets": ["registry"], "tag": "1.0.0-cu130"},
    "model": {"folder": "ours", "fetch": False},
    "gpu": {"product": "NVIDIA-L40S"},
    "rootPath": "/ranker",
    "apiKey": {"secret": "keys-of-ours", "key": "first", "optional": False},
    "apiKeysFile": {"secret": "several-keys"},
    "storage": {"models": {"existingClaim": "weights"}, "documents": {"size": "5Gi"}},
    "service": {"port": 80},
    "gateway": {"type": "envoy-gateway"},
    "ingress": {"enabled": True, "host": "ranker.example.com", "tlsSecret": "certificate"},
    "autoscaling": {"type": "hpa"},
    "monitoring": {"enabled": True, "apiKey": True, "labels": {"release": "ours"}, "dashboard": {"enabled": True}},
    "networkPolicy": {"extraEgress": [{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": 443}]}]},
    "nodeSelector": {"zone": "a"},
}
"""Values that no overlay has."""


def files_of(values: Values, *, namespace: str = "ziprerank") -> dict[str, str]:
    """The text of each rendered template, by its name."""
    from helm_python import Chart  # comes with the deployment tools

    with Chart.load(CHART) as chart:
        rendered: dict[str, str] = chart.render(values=values, name="ziprerank", namespace=namespace)
    return {name.removeprefix("ziprerank/templates/"): text for name, text in rendered.items()}


def objects_of(values: Values, *, namespace: str = "ziprerank") -> list[Resource]:
    texts = [text for name, text in files_of(values, namespace=namespace).items() if name.endswith(".yaml")]
    return [found for text in texts for found in yaml.safe_load_all(text) if found is not None]


def refusal(values: Values) -> str:
    """Why Helm refuses the values; fails the test where it takes them."""
    import helm_python

    with pytest.raises(helm_python.HelmError) as caught:
        files_of(values)
    return str(caught.value)


def in_common(resources: list[Resource]) -> dict[tuple[str, str], Resource]:
    """By kind and name, without the listed differences."""
    plain: list[Resource] = [without_hashes(resource) for resource in resources]
    for resource in plain:
        for kind, own in (("labels", LABELS_OF_THE_CHART), ("annotations", ANNOTATIONS_OF_THE_CHART)):
            held = resource["metadata"].pop(kind, {})
            if kept := {name: value for name, value in held.items() if name not in own}:
                resource["metadata"][kind] = kept
    found = {(resource["kind"], resource["metadata"]["name"]): resource for resource in plain}
    assert len(found) == len(resources), "two objects have one name"
    return found


def without_hashes(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_hashes(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_hashes(item) for item in value]
    return HASHED_NAMES.sub(r"\1", value) if isinstance(value, str) else value


def named(objects: list[Resource], kind: str, name: str = "ziprerank") -> Any:
    return in_common(objects)[kind, name]


def test_every_overlay_has_values() -> None:
    assert list(VALUES) == OVERLAYS


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_chart_renders_the_objects_of_the_overlay(overlay: str) -> None:
    chart, overlaid = in_common(objects_of(in_its_namespace(overlay))), in_common(resources_of(overlay))
    assert sorted(chart) == sorted(overlaid)
    for name, found in chart.items():
        assert found == overlaid[name], name


def in_its_namespace(overlay: str) -> Values:
    """The overlay's values; the chart makes the namespace too, which is no default."""
    return VALUES[overlay] | {"namespace": {"create": True}}


@pytest.mark.parametrize("values", [*VALUES.values(), EVERYTHING], ids=[*VALUES, "everything"])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_kinds_of_kubernetes_are_valid(values: Values, version: str) -> None:
    core = [resource for resource in objects_of(values) if not is_custom(resource)]
    assert core and faults_by_kubernetes(core, version) == []


@pytest.mark.parametrize("values", [*VALUES.values(), EVERYTHING], ids=[*VALUES, "everything"])
def test_the_custom_resources_are_valid(values: Values) -> None:
    custom = [resource for resource in objects_of(values) if is_custom(resource)]
    names = [custom_resource_schema(resource) for resource in custom]
    if not all(map(is_known, names)):
        require_published()
    assert [faults_by_schema(resource, name) for resource, name in zip(custom, names, strict=True)] == [
        [] for _ in custom
    ]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_objects_fit_each_other_and_the_service(overlay: str) -> None:
    assert faults(objects_of(VALUES[overlay])) == []


@pytest.mark.parametrize("values", [*VALUES.values(), EVERYTHING], ids=[*VALUES, "everything"])
def test_helms_linter_finds_no_fault(values: Values) -> None:
    from helm_python import lint

    report = lint(CHART, values, strict=True, namespace="ziprerank")
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["error"] != "icon is recommended"] == []


def test_another_namespace_is_everywhere() -> None:
    values = VALUES["overlays/production"]
    objects = objects_of(values, namespace="shop") + objects_of(values | {"namespace": {"name": "shop"}})
    assert {found["metadata"].get("namespace") for found in objects if found["kind"] != "PriorityClass"} == {"shop"}
    assert faults(objects_of(values, namespace="shop")) == []
    rule = named(objects_of(VALUES["overlays/istio"], namespace="shop"), "DestinationRule")
    assert rule["spec"]["host"] == "ziprerank.shop.svc.cluster.local"


def test_the_values_of_no_overlay_reach_the_objects() -> None:
    objects = objects_of(EVERYTHING)
    assert ("Job", "ziprerank-weights") not in in_common(objects)
    assert ("PersistentVolumeClaim", "ziprerank-models") not in in_common(objects)
    pod = named(objects, "Deployment")["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L40S", "zone": "a"}
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    [container] = pod["containers"]
    assert (container["image"], container["imagePullPolicy"]) == (
        "registry.example.com/ziprerank:1.0.0-cu130",
        "Always",
    )
    settings = named(objects, "ConfigMap", "ziprerank-settings")["data"]
    assert settings["ZIPRERANK_MODEL"] == "/models/ours"
    assert settings["ZIPRERANK_ROOT_PATH"] == "/ranker"
    folder = next(mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "keys")
    assert settings["ZIPRERANK_API_KEYS_FILE"] == f"{folder}/keys.json"
    [key] = [entry["valueFrom"]["secretKeyRef"] for entry in container["env"] if entry["name"] == "ZIPRERANK_API_KEY"]
    assert key == {"name": "keys-of-ours", "key": "first", "optional": False}
    [end] = named(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert end["authorization"]["credentials"] == {"name": "keys-of-ours", "key": "first"}
    ports = named(objects, "HTTPRoute")["spec"]["rules"][0]["backendRefs"]
    assert [port["port"] for port in ports] == [80] == [p["port"] for p in named(objects, "Service")["spec"]["ports"]]


def test_routes_and_ingress_have_the_root_path_in_front() -> None:
    objects = objects_of(EVERYTHING)
    [ingress_rule] = named(objects, "Ingress")["spec"]["rules"]
    [route_rule] = named(objects, "HTTPRoute")["spec"]["rules"]
    ingress_paths = [path["path"] for path in ingress_rule["http"]["paths"]]
    assert "/ranker/rerank" in ingress_paths
    assert ingress_paths == [match["path"]["value"] for match in route_rule["matches"]]
    assert named(objects, "Ingress")["spec"]["tls"] == [{"secretName": "certificate", "hosts": ["ranker.example.com"]}]


def test_the_ingress_is_the_one_of_the_proxies() -> None:
    objects = in_common(
        objects_of(
            {
                "rootPath": "/ranker",
                "ingress": {"enabled": True, "host": "ranker.example.com", "tlsSecret": "ranker-certificate"},
            }
        )
    )
    written = in_common(list(yaml.safe_load_all((DEPLOY / "proxies" / "ingress.yaml").read_text())))
    assert {name: objects[name] for name in written} == written
    assert set(objects) - set(in_common(objects_of({}))) == set(written)


def test_rules_and_dashboard_are_those_of_the_repository() -> None:
    objects = objects_of(EVERYTHING)
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules" / "ziprerank.yml").read_text())
    assert named(objects, "PrometheusRule")["spec"] == rules
    dashboard = (DEPLOY / "grafana" / "dashboards" / "ziprerank.json").read_text()
    shown = named(objects, "ConfigMap", "ziprerank-dashboard")["data"]["ziprerank.json"]
    assert json.loads(shown) == json.loads(dashboard)


def test_a_change_of_a_setting_gives_new_pods_and_keeps_the_old_settings() -> None:
    before, after = (objects_of({"settings": {"ZIPRERANK_KEEP_RATIO": ratio}}) for ratio in ("0.5", "0.6"))
    names = [
        [found["metadata"]["name"] for found in objects if found["kind"] == "ConfigMap"] for objects in (before, after)
    ]
    assert names[0][0] != names[1][0] and names[0][1] == names[1][1]
    for found in before:
        if found["kind"] in ("ConfigMap", "PersistentVolumeClaim"):
            assert found["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_a_job_that_names_something_else_is_another_job() -> None:
    changes: list[Values] = [
        {}, {"model": {"revision": "f00"}}, {"image": {"tag": "next"}}, {"settings": {"ZIPRERANK_KEEP_RATIO": "0.6"}},
        {"image": {"pullPolicy": "Always"}}, {"image": {"pullSecrets": ["registry"]}},
        {"storage": {"models": {"existingClaim": "weights"}}},
    ]  # fmt: skip
    jobs = [next(found for found in objects_of(values) if found["kind"] == "Job") for values in changes]
    assert len({job["metadata"]["name"] for job in jobs}) == len(changes)


REFUSED: dict[str, tuple[Values, str]] = {
    "unknown": ({"replica": 3}, "replica"),
    "unknown below": ({"image": {"name": "a"}}, "name"),
    "number": ({"settings": {"ZIPRERANK_PAGE_CACHE_BYTES": 4294967296}}, "ZIPRERANK_PAGE_CACHE_BYTES"),
    "no setting": ({"settings": {"PORT": "80"}}, "PORT"),
    "model as a setting": ({"settings": {"ZIPRERANK_MODEL": "/models/x"}}, "ZIPRERANK_MODEL"),
    "to nothing": ({"autoscaling": {"minReplicas": 0}}, "minReplicas"),
    "gateway": ({"gateway": {"type": "nginx"}}, "type"),
    "weights by tag": ({"model": {"image": {"reference": "weights:latest"}}}, "reference"),
    "root path": ({"rootPath": "ranker/"}, "rootPath"),
    "digest": ({"image": {"digest": "sha256:abc"}}, "digest"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_schema_refuses(case: str) -> None:
    values, said = REFUSED[case]
    assert said in refusal(values)


def test_the_schema_knows_the_values_that_there_are() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(keys_of_schema(schema)) - set(keys_of_values(values, schema)) == {"global"}


def keys_of_schema(schema: Values, above: str = "") -> Iterator[str]:
    """Dotted names; below free mappings such as `settings` none."""
    if schema.get("additionalProperties") is False:
        for name, below in schema["properties"].items():
            yield f"{above}{name}"
            yield from keys_of_schema(below, f"{above}{name}.")


def keys_of_values(values: Values, schema: Values, above: str = "") -> Iterator[str]:
    if schema.get("additionalProperties") is False:
        for name, below in values.items():
            yield f"{above}{name}"
            yield from keys_of_values(below, schema["properties"][name], f"{above}{name}.")


def test_the_notes_say_where_it_runs_and_how_to_ask() -> None:
    notes = files_of({}, namespace="shop")["NOTES.txt"]
    assert "kubectl -n shop port-forward service/ziprerank 8000:8000" in notes and "/rerank" in notes
    assert "Everybody in reach may use it" in notes
    assert "Everybody in reach" not in files_of({"apiKey": {"optional": False}})["NOTES.txt"]


def test_the_chart_is_of_the_projects_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert chart["version"] == chart["appVersion"] == version[1]
