"""JSON schemas of what the core tools do not know: Compose files and custom resources.

The published ones lie outside the repository: in ../shared/schemas, or in the folder that DEPLOY_SCHEMAS names. Where
that folder is absent, those checks alone are left out, and say so. Three kinds have a schema of our own beside this file,
which knows only the fields that our manifests use.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.tools import ROOT

PUBLISHED = Path(os.environ.get("DEPLOY_SCHEMAS", ROOT.parent / "shared" / "schemas"))
OWN = Path(__file__).parent / "schemas"


def faults_by_schema(document: Any, name: str) -> list[str]:
    """What is wrong with `document` by the schema `name`.json; skips the test where the published ones are absent."""
    import jsonschema  # comes with the deployment tools

    validator = jsonschema.Draft7Validator(_schema(name))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def custom_resource_schema(resource: dict[str, Any]) -> str:
    """The file name of a custom resource's schema, such as keda.sh_v1alpha1_scaledobject."""
    group, _, version = resource["apiVersion"].partition("/")
    return f"{group}_{version}_{resource['kind'].lower()}"


def is_known(name: str) -> bool:
    return any((folder / f"{name}.json").exists() for folder in (OWN, PUBLISHED))


def require_published() -> None:
    if not PUBLISHED.is_dir():
        pytest.skip(f"no published schemas in {PUBLISHED}; name their folder with DEPLOY_SCHEMAS")


@cache
def _schema(name: str) -> Any:
    for folder in (OWN, PUBLISHED):
        if (path := folder / f"{name}.json").exists():
            return json.loads(path.read_text())
    require_published()
    raise AssertionError(f"no schema {name}.json in {OWN} or {PUBLISHED}")
