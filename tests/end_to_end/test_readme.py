"""The requests of the README, sent to a live service with the bundled checkpoint, are answered as it says."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.documentation import blocks
from tests.servers import RunningService, running_service

PROJECT = Path(__file__).parents[2]
README = PROJECT / "README.md"
ROOT = "http://127.0.0.1:8000"
NEAR = 0.01
"""Scores are shown as 1.0 and 0.0; those of the service are this near."""


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running_service() as running:
        yield running


def block(language: str, marker: str) -> str:
    """The one block of a language that has a text."""
    [text] = [each.text for each in blocks(README) if each.language == language and marker in each.text]
    return text


@pytest.fixture(scope="module")
def shown() -> list[dict[str, Any]]:
    """The results of the answer that the README shows."""
    answer = json.loads(block("json", "relevance_score"))
    results: list[dict[str, Any]] = answer["results"]
    assert len(results) == 2
    return results


def test_the_command_of_curl_is_answered_as_shown(service: RunningService, shown: list[dict[str, Any]]) -> None:
    words = shlex.split(block("console", "curl").removeprefix("$ "))
    assert words[:3] == ["curl", "-s", f"{ROOT}/rerank"] and words[3::2] == ["-F"] * len(words[3::2])
    fields = dict(word.split("=", 1) for word in words[4::2])
    file = PROJECT / fields.pop("file").removeprefix("@")
    response = service.client.post("/rerank", data=fields, files={"file": (file.name, file.read_bytes())})
    results = response.raise_for_status().json()["results"]
    assert len(results) == len(shown)
    for result, expected in zip(results, shown, strict=True):
        assert result["relevance_score"] == pytest.approx(expected["relevance_score"], abs=NEAR)
        assert [result[name] for name in ("index", "id", "page")] == [
            expected[name] for name in ("index", "id", "page")
        ]


def test_the_script_prints_the_results_that_are_shown(service: RunningService, shown: list[dict[str, Any]]) -> None:
    script = block("python", "httpx.post")
    assert ROOT in script
    done = subprocess.run(
        [sys.executable, "-"],
        input=script.replace(ROOT, service.url),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [result["id"] for result in shown]
