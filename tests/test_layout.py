"""The layout of the tests: helpers in helper modules, and folders as in the packages that they test."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
TESTS = PROJECT / "tests"
MODULES = sorted(TESTS.rglob("*.py"))


def imported_names(file: Path) -> Iterator[str]:
    """Full names of modules, and of names in modules, that the file imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def is_in_test_module(name: str) -> bool:
    parts = name.split(".")
    return parts[0] == "tests" and any(part.startswith("test_") for part in parts[1:-1] or parts[1:])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tests.service.test_errors.refused", True),
        ("tests.test_layout", True),
        ("tests.service.http.requests.rerank", False),
        ("tests.patience.eventually", False),
        ("service.test_double.Fake", False),
    ],
)
def test_a_test_module_is_known_by_its_name(name: str, expected: bool) -> None:
    assert is_in_test_module(name) == expected


def test_no_module_imports_a_test_module() -> None:
    found = {(str(file.relative_to(PROJECT)), name) for file in MODULES for name in imported_names(file)}
    assert found, "the files are read"
    assert [pair for pair in sorted(found) if is_in_test_module(pair[1])] == []


@pytest.mark.parametrize("package", ["model", "service"])
def test_folders_of_tests_are_packages_of_the_product(package: str) -> None:
    folders = [file.parent for file in (TESTS / package).rglob("__init__.py")]
    assert len(folders) > 1
    missing = [folder for folder in folders if not (PROJECT / folder.relative_to(TESTS) / "__init__.py").exists()]
    assert missing == []


@pytest.mark.parametrize("helper", ["eventually", "until", "free_port", "rerank", "refused"])
def test_a_shared_helper_is_defined_once(helper: str) -> None:
    definitions = Counter(
        node.name
        for file in MODULES
        for node in ast.parse(file.read_text()).body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )
    assert definitions[helper] == 1
