"""The prose of docstrings and comments: nouns instead of clauses with "what"."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
MOST_IN_A_THOUSAND = 1.0
"""In a package as a whole. Starlette, httpx, mosec and nanochat have 0 to 0.5."""

Documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def prose_of(source: str) -> Iterator[str]:
    """Docstrings, also those below constants and fields, and comments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Documented):
            yield ast.get_docstring(node) or ""
        if isinstance(node, (ast.Module, ast.ClassDef)):
            yield from _below_assignments(node.body)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def _below_assignments(body: list[ast.stmt]) -> Iterator[str]:
    for statement, following in pairwise(body):
        if (
            isinstance(statement, (ast.Assign, ast.AnnAssign))
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            yield following.value.value


def words_of(source: str) -> list[str]:
    return [word.lower() for text in prose_of(source) for word in re.findall(r"[A-Za-z']+", text)]


def test_docstrings_and_comments_are_counted_and_code_is_not() -> None:
    source = '''
"""What is one."""
what = "what"
"""what is two"""


class A:
    """What is three."""

    what: int  # what is four
    """What is five."""

    def what(self) -> None:
        """What is six."""
        what("what", """what""")
'''
    assert words_of(source).count("what") == 6
    assert set(words_of(source)) == {"what", "is", "one", "two", "three", "four", "five", "six"}


@pytest.mark.parametrize("package", ["model", "service"])
def test_what_is_a_rare_word(package: str) -> None:
    by_file = {str(file.relative_to(PROJECT)): words_of(file.read_text()) for file in (PROJECT / package).rglob("*.py")}
    count = sum(map(len, by_file.values()))
    assert count > 5_000, "the prose is read"
    found = {file: words.count("what") for file, words in by_file.items() if "what" in words}
    worst = ", ".join(f"{file} {found[file]}" for file in sorted(found, key=found.__getitem__, reverse=True))
    assert sum(found.values()) <= MOST_IN_A_THOUSAND * count / 1000, worst
