"""`import model` costs nothing; each exported name brings its module along when it is first asked for."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import model


def modules_after(code: str) -> set[str]:
    """What a fresh interpreter has loaded after the code."""
    code = f"import sys; {code}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split())


def test_the_front_door_lists_what_it_exports() -> None:
    assert model.__all__ == sorted(model.__all__, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(model, name) for name in model.__all__)
    assert set(model.__all__) <= set(dir(model))


def test_type_checkers_and_the_interpreter_find_each_name_in_the_same_module() -> None:
    tree = ast.parse(Path(model.__file__).read_text())
    imports = [(node.module or "", node.names) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    typed = {name.name: module for module, names in imports for name in names if module.startswith("model.")}
    assert typed == model._HOMES
    assert set(typed) == set(model.__all__)


def test_an_exported_name_is_the_same_object_as_in_its_module() -> None:
    from model.reranker import Reranker

    assert model.Reranker is Reranker
    assert model.Reranker is model.Reranker


def test_a_name_that_is_not_exported_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'model' has no attribute 'Rerankr'"):
        model.Rerankr  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="Rerankr"):
        from model import Rerankr  # type: ignore[attr-defined]  # noqa: F401


def test_star_import_brings_every_exported_name() -> None:
    names: dict[str, object] = {}
    exec("from model import *", names)  # noqa: S102
    assert set(model.__all__) <= set(names)


@pytest.mark.parametrize("code", ["import model", "from model import PageImageError, RerankerConfig"])
def test_torch_is_not_imported_for_what_does_not_need_it(code: str) -> None:
    modules = modules_after(code)
    assert "model" in modules
    assert not modules & {"torch", "numpy", "transformers"}


def test_torch_is_imported_for_what_needs_it() -> None:
    assert {"torch", "model.reranker"} <= modules_after("from model import Reranker")
