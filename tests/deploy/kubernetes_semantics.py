"""What no schema can see: whether the resources of one overlay fit each other, and the service that they run.

`faults` takes the resources and returns a sentence for each fault.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError

from service.settings import PREFIX, Settings, unknown_variables

Resource = dict[str, Any]

GIB = 2**30
BASE_MEMORY = 8 * GIB  # torch, the CUDA context, Python
MEMORY_A_RASTER_PROCESS = GIB // 2
DRAIN_SLACK_SECONDS = 10  # the raster processes and the event loop end after the drain

_UNITS: dict[str, int | Decimal] = {
    "": 1, "m": Decimal("0.001"), "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30,
}  # fmt: skip
_OF_THE_CLUSTER = ("Namespace", "PriorityClass")
_POD_LABEL = {"app.kubernetes.io/name": "ziprerank"}


@dataclass(frozen=True)
class Overlay:
    """What `kubectl kustomize` printed."""

    resources: list[Resource]

    def of(self, *kinds: str) -> list[Resource]:
        return [resource for resource in self.resources if resource["kind"] in kinds]

    def named(self, kind: str, name: str) -> Resource | None:
        return next((found for found in self.of(kind) if found["metadata"]["name"] == name), None)

    @cached_property
    def deployment(self) -> Resource:
        [deployment] = self.of("Deployment")
        return deployment

    @property
    def pods(self) -> Iterator[tuple[str, Resource]]:
        """The pod templates, each with a name for messages."""
        for resource in self.of("Deployment", "Job"):
            yield f"{resource['kind']} {resource['metadata']['name']}", resource["spec"]["template"]

    @cached_property
    def service_container(self) -> Resource:
        container: Resource
        [container] = self.deployment["spec"]["template"]["spec"]["containers"]
        return container

    def variables(self, container: Resource) -> dict[str, str]:
        """What the container's environment will hold; values out of Secrets left out."""
        variables: dict[str, str] = {}
        for source in container.get("envFrom", []):
            found = self.named("ConfigMap", source["configMapRef"]["name"])
            variables |= found["data"] if found else {}
        return variables | {entry["name"]: entry["value"] for entry in container.get("env", []) if "value" in entry}


def faults(resources: list[Resource]) -> list[str]:
    """A sentence for each fault; none where everything fits."""
    overlay = Overlay(resources)
    if refused := list(_settings(overlay)):
        return refused  # the others read the settings
    checks = (
        _selectors, _ports, _references, _volumes, _security, _folders, _memory, _grace, _autoscaling, _gateways,
        _availability,
    )  # fmt: skip
    return [fault for check in checks for fault in check(overlay)]


def quantity(text: str | int) -> Decimal:
    """Kubernetes' 700m, 2Gi, 1 as a number. Raises: ValueError."""
    parsed = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    if parsed is None or parsed[2] not in _UNITS:
        raise ValueError(f"{text} is no quantity")
    return Decimal(parsed[1]) * _UNITS[parsed[2]]


def _selectors(overlay: Overlay) -> Iterator[str]:
    labels = {name: template["metadata"]["labels"] for name, template in overlay.pods}
    server, others = labels["Deployment ziprerank"], [found for name, found in labels.items() if name.startswith("Job")]
    for resource in overlay.of("Deployment", "Service", "PodDisruptionBudget", "PodMonitor"):
        selector = resource["spec"]["selector"]
        wanted = selector if resource["kind"] == "Service" else selector["matchLabels"]
        name = f"{resource['kind']} {resource['metadata']['name']}"
        if not wanted.items() <= server.items():
            yield f"{name} does not select the pods of the service"
        if any(wanted.items() <= other.items() for other in others):
            yield f"{name} selects the pods of a Job too"
    for policy in overlay.of("NetworkPolicy"):
        wanted = policy["spec"]["podSelector"]["matchLabels"]
        if not any(wanted.items() <= found.items() for found in labels.values()):
            yield f"NetworkPolicy {policy['metadata']['name']} selects no pod"


def _ports(overlay: Overlay) -> Iterator[str]:
    container = overlay.service_container
    names = {port["name"] for port in container["ports"]}
    used = [container[probe]["httpGet"]["port"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
    used += [port["targetPort"] for service in overlay.of("Service") for port in service["spec"]["ports"]]
    used += [end["port"] for monitor in overlay.of("PodMonitor") for end in monitor["spec"]["podMetricsEndpoints"]]
    used += [
        port["port"]
        for policy in overlay.of("NetworkPolicy")
        if policy["spec"]["podSelector"]["matchLabels"] == _POD_LABEL
        for rule in policy["spec"].get("ingress", [])
        for port in rule["ports"]
    ]
    yield from (f"the container has no port {port}" for port in used if port not in names)
    listening = int(overlay.variables(container).get("ZIPRERANK_PORT", Settings.model_fields["port"].default))
    if container["ports"][0]["containerPort"] != listening:
        yield f"the service listens on {listening} and the container's port is another"


def _references(overlay: Overlay) -> Iterator[str]:
    namespaces = {resource["metadata"].get("namespace") for resource in overlay.resources} - {None}
    if len(namespaces) != 1:
        yield f"the resources lie in several namespaces: {namespaces}"
    for resource in overlay.resources:
        if resource["kind"] not in _OF_THE_CLUSTER and "namespace" not in resource["metadata"]:
            yield f"{resource['kind']} {resource['metadata']['name']} has no namespace: it would land in the user's own"
    for name, template in overlay.pods:
        spec = template["spec"]
        for container in spec["containers"] + spec.get("initContainers", []):
            for source in container.get("envFrom", []):
                if overlay.named("ConfigMap", source["configMapRef"]["name"]) is None:
                    yield f"{name}: there is no ConfigMap {source['configMapRef']['name']}"
        for volume in spec["volumes"]:
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and overlay.named("PersistentVolumeClaim", claim) is None:
                yield f"{name}: there is no PersistentVolumeClaim {claim}"
        priority = spec.get("priorityClassName")
        if priority and overlay.named("PriorityClass", priority) is None:
            yield f"{name}: there is no PriorityClass {priority}"
    images = {container["image"] for _, template in overlay.pods for container in template["spec"]["containers"]}
    if len(images) != 1:
        yield f"the pods run different images: {images}"


def _volumes(overlay: Overlay) -> Iterator[str]:
    for name, template in overlay.pods:
        spec = template["spec"]
        volumes = {volume["name"] for volume in spec["volumes"]}
        mounted = {
            mount["name"]
            for container in spec["containers"] + spec.get("initContainers", [])
            for mount in container.get("volumeMounts", [])
        }
        yield from (f"{name} mounts {missing}, which is no volume" for missing in mounted - volumes)
        yield from (f"{name} mounts {unused} nowhere" for unused in volumes - mounted)


def _security(overlay: Overlay) -> Iterator[str]:
    """The restricted pod security standard, a read-only root, and no variables from the names of Services."""
    for name, template in overlay.pods:
        spec = template["spec"]
        if spec.get("enableServiceLinks") is not False:
            yield f"{name} gets variables from Services: ZIPRERANK_PORT=tcp://… stops the service at its start"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name} mounts a token that it does not need"
        context = spec.get("securityContext", {})
        if (context.get("runAsNonRoot"), context.get("runAsUser"), context.get("runAsGroup")) != (True, 10001, 0):
            yield f"{name} does not run as the image's user, 10001:0"
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{name} has no seccomp profile"
        for container in spec["containers"] + spec.get("initContainers", []):
            locked = container.get("securityContext", {})
            if locked != {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }:
                yield f"{name}: container {container['name']} is not locked down"


def _settings(overlay: Overlay) -> Iterator[str]:
    variables = overlay.variables(overlay.service_container)
    yield from unknown_variables(variables)
    yield from unknown_variables({entry["name"]: "" for entry in overlay.service_container.get("env", [])})
    try:
        _loaded(variables)
    except ValidationError as error:
        yield f"the service refuses its settings: {error}"


def _loaded(variables: dict[str, str]) -> Settings:
    """The settings as the service would read them."""
    own = {name.removeprefix(PREFIX).lower(): value for name, value in variables.items() if name.startswith(PREFIX)}
    return Settings(**{name: value for name, value in own.items() if name in Settings.model_fields})  # type: ignore[arg-type]


def _folders(overlay: Overlay) -> Iterator[str]:
    """Whether what the settings name lies on a volume, and can be written where it must be."""
    variables = overlay.variables(overlay.service_container)
    read_only = {
        mount["mountPath"]: mount.get("readOnly", False) for mount in overlay.service_container["volumeMounts"]
    }

    def volume_of(path: str) -> str | None:
        return next(
            (str(parent) for parent in (PurePosixPath(path), *PurePosixPath(path).parents) if str(parent) in read_only),
            None,
        )

    for name in ("HOME", "ZIPRERANK_DOCUMENT_STORE"):
        if "://" not in variables[name] and read_only.get(volume_of(variables[name]) or "", True):
            yield f"{name}={variables[name]} is on no volume that can be written"
    if volume_of(variables["ZIPRERANK_MODEL"]) is None:
        yield f"ZIPRERANK_MODEL={variables['ZIPRERANK_MODEL']} is on no volume"
    for missing in {"/dev/shm", "/tmp"} - set(read_only):
        yield f"nothing is mounted at {missing}, and the root is read-only"


def _memory(overlay: Overlay) -> Iterator[str]:
    limits, requests = (overlay.service_container["resources"][kind] for kind in ("limits", "requests"))
    if limits["memory"] != requests["memory"]:
        yield "memory is requested and limited differently: the pod may be evicted under load"
    if "cpu" in limits:
        yield "a CPU limit would stop the event loop and the probes"
    settings = _loaded(overlay.variables(overlay.service_container))
    volumes = overlay.deployment["spec"]["template"]["spec"]["volumes"]
    in_memory = sum(
        quantity(volume["emptyDir"]["sizeLimit"])
        for volume in volumes
        if volume.get("emptyDir", {}).get("medium") == "Memory"
    )
    needed = (
        BASE_MEMORY
        + (settings.feature_cache_host_bytes or 0)
        + (settings.page_cache_bytes or 0)
        + settings.max_in_flight_bytes * 5 // 4  # with the reserve of `service.http.admission`
        + settings.rasterizer_processes * MEMORY_A_RASTER_PROCESS
        + in_memory
    )
    if quantity(limits["memory"]) < needed:
        yield f"the memory limit is {limits['memory']}, and caches, raster processes and /dev/shm need {needed / GIB:.1f}Gi"
    if limits["nvidia.com/gpu"] != "1":
        yield "a replica owns one GPU"


def _grace(overlay: Overlay) -> Iterator[str]:
    spec = overlay.deployment["spec"]["template"]["spec"]
    settings = _loaded(overlay.variables(overlay.service_container))
    before = overlay.service_container["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = before + settings.drain_delay_seconds + settings.drain_grace_seconds + DRAIN_SLACK_SECONDS
    if spec["terminationGracePeriodSeconds"] < needed:
        yield f"a pod gets {spec['terminationGracePeriodSeconds']} s to stop and needs {needed:g}"
    start = overlay.service_container["startupProbe"]
    if start["periodSeconds"] * start["failureThreshold"] < 600:
        yield "a start gets less than 10 minutes"


def _autoscaling(overlay: Overlay) -> Iterator[str]:
    scalers = overlay.of("ScaledObject", "HorizontalPodAutoscaler")
    if len(scalers) > 1:
        yield "two autoscalers own one Deployment"
    if scalers and "replicas" in overlay.deployment["spec"]:
        yield "the Deployment has replicas, so that each apply undoes the autoscaler"
    namespace = overlay.deployment["metadata"]["namespace"]
    for scaler in scalers:
        spec = scaler["spec"]
        if spec["scaleTargetRef"]["name"] != overlay.deployment["metadata"]["name"]:
            yield f"{scaler['kind']} scales {spec['scaleTargetRef']['name']}, which does not exist"
        if spec.get("minReplicaCount", spec.get("minReplicas", 0)) < 1:
            yield f"{scaler['kind']} may scale to 0, and a cold start takes minutes"
    for scaler in overlay.of("ScaledObject"):
        for trigger in scaler["spec"]["triggers"]:
            query = trigger["metadata"]["query"]
            if f'namespace="{namespace}"' not in query:
                yield f"the query of trigger {trigger['name']} is not about the namespace {namespace}"
            if not re.fullmatch(r"sum\(.*\)", query):
                yield f"the query of trigger {trigger['name']} gives one number for each pod; KEDA wants one in all"
            if trigger["metadata"].get("ignoreNullValues") != "false":
                yield f"trigger {trigger['name']} takes missing data for an idle service"


def _gateways(overlay: Overlay) -> Iterator[str]:
    settings = _loaded(overlay.variables(overlay.service_container))
    for route in overlay.of("HTTPRoute"):
        for parent in route["spec"]["parentRefs"]:
            if overlay.named("Gateway", parent["name"]) is None:
                yield f"there is no Gateway {parent['name']}"
        for backend in (backend for rule in route["spec"]["rules"] for backend in rule["backendRefs"]):
            service = overlay.named("Service", backend["name"])
            if service is None or backend["port"] not in [port["port"] for port in service["spec"]["ports"]]:
                yield f"no Service {backend['name']} has the port {backend['port']}"
    for policy in overlay.of("BackendTrafficPolicy"):
        for target in policy["spec"]["targetRefs"]:
            if overlay.named(target["kind"], target["name"]) is None:
                yield f"there is no {target['kind']} {target['name']}"
        seconds = int(policy["spec"]["timeout"]["http"]["requestTimeout"].removesuffix("s"))
        if seconds <= settings.body_seconds:
            yield f"the gateway gives up after {seconds} s, before the service does"
    for rule in overlay.of("DestinationRule"):
        service, namespace = rule["spec"]["host"].split(".")[:2]
        if overlay.named("Service", service) is None or namespace != overlay.deployment["metadata"]["namespace"]:
            yield f"there is no Service {rule['spec']['host']}"
    if overlay.of("BackendTrafficPolicy", "DestinationRule"):
        policies = [policy["metadata"]["name"] for policy in overlay.of("NetworkPolicy")]
        if not {"ziprerank-from-gateway", "ziprerank-from-mesh"} & set(policies):
            yield "no NetworkPolicy lets the gateway in"


def _availability(overlay: Overlay) -> Iterator[str]:
    [budget] = overlay.of("PodDisruptionBudget")
    if budget["spec"].get("maxUnavailable") != 1:
        yield "the disruption budget would block the drain of a node with the only replica"
    if overlay.deployment["spec"]["strategy"]["rollingUpdate"] != {"maxSurge": 0, "maxUnavailable": 1}:
        yield "a rolling update waits for a GPU that is not there"
