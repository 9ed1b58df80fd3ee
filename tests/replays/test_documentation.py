"""docs/clients.md: every block has a runner, and those that need no client package are run here."""

import json
import os
import re
import shlex
import subprocess
import sys
from urllib.parse import urlsplit

import httpx
import pytest

from service.commands.demo import PDF
from tests.clients.environments import NODE, PYTHON_FAMILIES
from tests.documentation import CLIENTS, SERVICE, Block, block, blocks, table_rows
from tests.replays.catalogue import PROGRAMS
from tests.replays.program import Program, Question
from tests.replays.services import KEY, best_first
from tests.servers import RunningService

DEFAULT_ROOT = "http://127.0.0.1:8000"
LANGUAGES = {"here": "python", "curl": "sh", NODE: "js", "mcp": "json", **dict.fromkeys(PYTHON_FAMILIES, "python")}
REPLAYED = {
    "replay open_webui": "RAG_EXTERNAL_RERANKER_URL",
    "replay librechat": "JINA_API_URL",
    "replay lightrag": "RERANK_BINDING_HOST",
    "replay nvidia_blueprint": "APP_RANKING_SERVERURL",
    "replay weaviate": "RERANKER_INFERENCE_API",
    "replay milvus vllm": "",  # these are read by the modules that build the requests
    "replay milvus tei": "",
    "replay opensearch": "",
    "replay elasticsearch": "",
    "replay opensearch settings": "",
    "replay opensearch pipeline": "",
}
"""Recipes, and the variable of each that has the address."""


def variables(recipe: Block) -> dict[str, str]:
    return dict(line.split("=", 1) for line in recipe.text.splitlines())


def named(name: str) -> Program:
    [program] = [program for program in PROGRAMS if program.name == name]
    return program


def test_every_block_has_a_language_and_a_runner() -> None:
    assert len(blocks()) == CLIENTS.read_text().count("\n```") / 2 > 20, "the blocks are read"
    for each in blocks():
        assert each.runner in {*LANGUAGES, *REPLAYED}, f"line {each.line}: {each.runner!r}"
        assert each.language == LANGUAGES.get(each.runner, each.language), f"line {each.line}: {each.language!r}"
        assert each.language, f"line {each.line}"
    assert set(REPLAYED) <= {each.runner for each in blocks()}


@pytest.mark.parametrize(
    "script", [each for each in blocks() if each.runner == "here"], ids=lambda script: f"line {script.line}"
)
def test_scripts_without_a_client_package(service: RunningService, script: Block) -> None:
    environment = {**os.environ, "ZIPRERANK_URL": service.url, "ZIPRERANK_KEY": KEY}
    done = subprocess.run(
        [sys.executable, "-"], input=script.text, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == best_first(3)


def test_commands_of_curl(service: RunningService) -> None:
    statuses = []
    for line in block("curl").text.splitlines():
        words = shlex.split(line.replace("$ZIPRERANK_KEY", KEY))
        response = service.client.send(_request_of(words, service.url))
        statuses.append(response.status_code)
    assert statuses[0] in (200, 201, 202) and statuses[1:] == [200]
    assert [result["index"] for result in response.json()["results"]] == best_first(3)[:2]


def _request_of(words: list[str], root: str) -> httpx.Request:
    """The request of a command of curl. The file is the demo's, whatever its folder. root: of the service instead."""
    program, *rest = words
    assert program == "curl"
    method, url, content = "GET", "", b""
    headers: dict[str, str] = {}
    while rest:
        word = rest.pop(0)
        if word == "-X":
            method = rest.pop(0)
        elif word == "-H":
            name, _, value = rest.pop(0).partition(": ")
            headers[name] = value
        elif word == "-d":
            method, content = "POST", rest.pop(0).encode()
        elif word == "--data-binary":
            assert rest.pop(0) == f"@{PDF.name}"
            content = PDF.read_bytes()
        else:
            url = word
    assert url.startswith(f"{DEFAULT_ROOT}/")
    return httpx.Request(method, url.replace(DEFAULT_ROOT, root, 1), headers=headers, content=content)


@pytest.mark.parametrize("name", [program.name for program in PROGRAMS])
def test_the_table_of_base_urls_has_every_program_with_the_path_that_it_calls(name: str) -> None:
    [called] = [calls for client, _, calls in table_rows("## Base URLs") if client == name]
    request = named(name).request(Question(query="bank loan", documents=["one"], key=KEY))
    assert called == f"`POST {request.path}`"


def test_every_path_of_the_table_is_served(service: RunningService) -> None:
    rows = table_rows("## Base URLs")
    assert len(rows) > 40
    for client, base, calls in rows:
        found = re.fullmatch(r"`POST (/\S+)`", calls)
        assert found, client
        response = service.client.post(found[1], json={}, headers={"Authorization": f"Bearer {KEY}"})
        assert response.status_code == 400, (client, response.text)
        if path := re.match(r"`ROOT(/\S*)`", base):
            assert found[1].startswith(path[1]), client


@pytest.mark.parametrize("runner", [runner for runner, variable in REPLAYED.items() if variable])
def test_addresses_of_recipes_lead_to_the_paths_of_the_replays(runner: str) -> None:
    programs = {
        "replay open_webui": "Open WebUI",
        "replay librechat": "LibreChat (Jina)",
        "replay lightrag": "LightRAG (cohere)",
        "replay nvidia_blueprint": "NVIDIA RAG Blueprint",
        "replay weaviate": "Weaviate",
    }
    address = variables(block(runner))[REPLAYED[runner]]
    assert address.startswith(SERVICE)
    own = {"replay nvidia_blueprint": "/ranking", "replay weaviate": "/rerank"}.get(runner, "")  # added by the program
    question = Question(query="bank loan", documents=["one"], key=KEY)
    assert urlsplit(address).path + own == named(programs[runner]).request(question).path


def test_the_blueprint_takes_the_model_for_one_that_gets_images() -> None:
    assert "rerank-vl" in variables(block("replay nvidia_blueprint"))["APP_RANKING_MODELNAME"].lower()


def test_the_settings_of_opensearch_allow_the_address_of_its_connector() -> None:
    settings = json.loads(block("replay opensearch settings").text)["persistent"]
    [action] = json.loads(block("replay opensearch").text)["actions"]
    patterns = settings["plugins.ml_commons.trusted_connector_endpoints_regex"]
    assert any(re.fullmatch(pattern, action["url"]) for pattern in patterns)
    [processor] = json.loads(block("replay opensearch pipeline").text)["response_processors"]
    assert processor["rerank"]["context"]["document_fields"]
