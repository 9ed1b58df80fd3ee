"""The packages under integrations/: their own tests, in the environment of their family, against the live service."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.clients.conftest import KEY, RankingService
from tests.clients.environments import INTEGRATIONS, LOCAL_PACKAGES, interpreter, isolated
from tests.patience import PATIENCE_SECONDS

PACKAGES = [
    pytest.param(family, package, id=f"{family}-{package.name}")
    for family, packages in LOCAL_PACKAGES.items()
    for package in packages
]


@pytest.mark.parametrize(("family", "package"), PACKAGES)
def test_the_tests_of_a_package_pass(service: RankingService, tmp_path: Path, family: str, package: Path) -> None:
    done = subprocess.run(
        [str(interpreter(family)), "-m", "pytest", "-q", "--rootdir", str(INTEGRATIONS), str(package / "tests")],
        env={
            **isolated(tmp_path),
            "PYTHONDONTWRITEBYTECODE": "1",
            "ZIPRERANK_URL": service.root,
            "ZIPRERANK_KEY": KEY,
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}{done.stderr[-2000:]}"
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 5, done.stdout


@pytest.mark.parametrize(("family", "package"), PACKAGES)
def test_a_package_is_installed_with_its_types(family: str, package: Path) -> None:
    listed = subprocess.run(
        [str(interpreter(family)), "-c", _FILES, package.name], capture_output=True, text=True, check=True
    ).stdout.split()
    assert [name for name in listed if name.endswith("py.typed")]
    assert [name for name in listed if "test" in name] == []


def test_every_package_belongs_to_a_family() -> None:
    folders = {file.parent for file in INTEGRATIONS.glob("*/pyproject.toml")}
    assert folders == {package for packages in LOCAL_PACKAGES.values() for package in packages}


_FILES = "import importlib.metadata, sys; print(*(importlib.metadata.files(sys.argv[1]) or ()), sep='\\n')"
