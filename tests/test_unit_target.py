"""`make test-unit`: its tests import no torch."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).parents[1]

PROBE = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    if "torch" in sys.modules:
        print(name)
        break
"""


def unit_tests() -> list[Path]:
    """Files and folders that the Makefile names."""
    makefile = (PROJECT / "Makefile").read_text().replace("\\\n", " ")
    found = re.search(r"^UNIT_TESTS := (.*)$", makefile, re.MULTILINE)
    assert found
    return [PROJECT / name for name in found[1].split()]


def modules_of(path: Path) -> list[str]:
    files = sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
    return [".".join(file.relative_to(PROJECT).with_suffix("").parts) for file in files]


def first_with_torch(modules: Sequence[str]) -> str:
    """The first of the modules after whose import torch is there; empty where it stays out. In a fresh interpreter."""
    command = [sys.executable, "-c", PROBE, *modules]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, check=True, text=True).stdout.strip()


def test_every_path_is_there_and_named_once() -> None:
    paths = unit_tests()
    assert [path for path in paths if not path.exists()] == []
    modules = [module for path in paths for module in modules_of(path)]
    assert len(modules) == len(set(modules)) > 20


def test_collecting_the_unit_tests_imports_no_torch() -> None:
    modules = [module for path in unit_tests() for module in modules_of(path)]
    assert first_with_torch(["tests.conftest", *modules]) == ""


def test_a_module_that_imports_torch_is_named() -> None:
    assert first_with_torch(["tests.test_layout", "tests.oracle", "tests.patience"]) == "tests.oracle"
