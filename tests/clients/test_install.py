"""What the client families install, and that every client of their scripts is tested."""

import ast
from pathlib import Path

import pytest

from tests.clients.catalogue import CLIENTS
from tests.clients.environments import LISTS, NODE, PYTHON_FAMILIES, SCRIPTS
from tests.clients.install import frameworks_in


@pytest.mark.parametrize("name", PYTHON_FAMILIES)
def test_a_list_has_every_version_and_no_framework(name: str) -> None:
    requirements = (LISTS / f"{name}.txt").read_text()
    assert requirements.strip()
    assert [line for line in requirements.splitlines() if "==" not in line] == []
    assert frameworks_in(requirements) == []


def test_frameworks_are_known_by_their_names() -> None:
    requirements = (
        "torch==2.11.0\nnvidia-cublas==13.2\nnvidia-haystack==3.0.0\npytorch-helper==1.0\nTransformers==5.1\n"
    )
    assert frameworks_in(requirements) == ["torch", "nvidia-cublas", "Transformers"]


@pytest.mark.parametrize("name", sorted({client.family for client in CLIENTS} - {NODE}))
def test_every_client_of_a_script_is_in_the_catalogue(name: str) -> None:
    in_script = names_in(SCRIPTS / f"{name}_clients.py")
    assert in_script
    assert in_script == {client.name for client in CLIENTS if client.family == name}


def names_in(script: Path) -> set[str]:
    """The names in the table that a script hands to `answer_cases`."""
    [call] = [
        node
        for node in ast.walk(ast.parse(script.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "answer_cases"
    ]
    table = call.args[0]
    assert isinstance(table, ast.Dict)
    return {key.value for key in table.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
