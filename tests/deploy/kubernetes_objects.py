"""The objects of each overlay as kubectl builds them, and what Kubernetes' own schemas say of objects."""

from functools import cache

import yaml

from tests.deploy.kubernetes_semantics import Resource
from tests.deploy.tools import DEPLOY, run

KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = ["base", *sorted(f"overlays/{folder.name}" for folder in (KUBERNETES / "overlays").iterdir())]
VERSIONS = ("1.33", "1.37")
"""The oldest that knows every field we use, and the newest that the validator knows."""


def resources_of(overlay: str) -> list[Resource]:
    """The objects of `base` or `overlays/NAME`, new ones for each call."""
    return list(yaml.safe_load_all(_built(overlay)))


@cache
def _built(overlay: str) -> str:
    return run("kubectl", "kustomize", KUBERNETES / overlay)


def faults_by_kubernetes(resources: list[Resource], version: str) -> list[str]:
    """What Kubernetes' own schemas find, unknown fields and unknown kinds included."""
    import kubernetes_validate  # comes with the deployment tools

    found = []
    for resource in resources:
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            found.append(f"{resource['kind']}: {error}")
    return found


def is_custom(resource: Resource) -> bool:
    """Kinds of others: their groups have a domain that is not Kubernetes' own."""
    group, slash, _ = resource["apiVersion"].partition("/")
    if group.startswith("gateway."):
        return True
    return bool(slash) and "." in group and not group.endswith(".k8s.io")
