"""`ziprerank mcp`, started by the official client over its standard input and output, against a running service."""

import asyncio
import base64
import io
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from importlib.util import find_spec
from typing import Any

import httpx
import pytest
from PIL import Image

from service.commands.demo import PDF, QUERY
from tests.documentation import block
from tests.patience import PATIENCE_SECONDS, eventually, wait_until_ready
from tests.processes import listening_url, process

if find_spec("mcp") is None:
    pytest.skip("the extra [mcp] is not installed", allow_module_level=True)

from mcp import Client, StdioServerParameters

KEY = "a-key-of-the-mcp-tests"
GUIDE = "town-guide"
ZIPRERANK = ("-c", "import sys; from service.cli import main; sys.exit(main())")
"""The script of that name, for this interpreter."""
DEFAULT_URL = "http://127.0.0.1:8000"
RIGHT_PAGE = 5  # of the demo's PDF: it alone has all words of the query


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    flags = ("--model", "demo", "--port", "0", "--device", "cpu", "--drain-delay-seconds", "0")
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        process(*flags, ZIPRERANK_API_KEY=KEY) as running,
        httpx.Client(base_url=listening_url(running), timeout=PATIENCE_SECONDS, headers=headers) as client,
    ):
        wait_until_ready(client)
        pdf = {"Content-Type": "application/pdf"}
        client.put(f"/documents/{GUIDE}", content=PDF.read_bytes(), headers=pdf).raise_for_status()
        eventually(lambda: client.get(f"/documents/{GUIDE}").json()["state"] == "ready")
        yield str(client.base_url).rstrip("/")


def command_for(url: str, key: str = KEY) -> Any:
    """The command as an assistant starts it, with the key in its environment."""
    return StdioServerParameters(
        command=sys.executable, args=[*ZIPRERANK, "mcp", "--url", url], env={"ZIPRERANK_KEY": key}
    )


def with_client(command: Any, work: Callable[[Any], Awaitable[Any]]) -> Any:
    """The result of work with a client of the command."""

    async def run() -> Any:
        async with asyncio.timeout(PATIENCE_SECONDS), Client(command) as client:
            return await work(client)

    return asyncio.run(run())


def call(url: str, tool: str, *, key: str = KEY, **arguments: Any) -> Any:
    return with_client(command_for(url, key), lambda client: client.call_tool(tool, arguments))


def test_the_tools_are_described(url: str) -> None:
    tools = {tool.name: tool for tool in with_client(command_for(url), lambda client: client.list_tools()).tools}
    assert set(tools) == {"rank_pages", "list_documents", "page_image"}
    assert tools["rank_pages"].input_schema["required"] == ["query", "documents"]
    assert tools["page_image"].input_schema["properties"]["width"]["enum"] == [160, 320, 800, 1600]
    assert all(tool.description and tool.annotations.read_only_hint for tool in tools.values())


def test_the_entry_of_the_documentation_starts_the_command(url: str) -> None:
    [entry] = json.loads(block("mcp").text.replace(DEFAULT_URL, url).replace('"KEY"', f'"{KEY}"'))[
        "mcpServers"
    ].values()
    assert entry["command"] == "ziprerank" and entry["args"][-1] == url
    command = StdioServerParameters(command=sys.executable, args=[*ZIPRERANK, *entry["args"]], env=entry["env"])
    answer = with_client(command, lambda client: client.call_tool("list_documents", {}))
    assert [document["document"] for document in answer.structured_content["documents"]] == [GUIDE]


def test_documents_are_listed(url: str) -> None:
    answer = call(url, "list_documents")
    [document] = answer.structured_content["documents"]
    assert (document["document"], document["state"]) == (GUIDE, "ready")
    assert document["pages"] > RIGHT_PAGE
    assert answer.structured_content["next"] is None


def test_the_pages_of_a_document_are_ranked(url: str) -> None:
    ranked = call(url, "rank_pages", query=QUERY, documents=[GUIDE], top_n=3).structured_content["result"]
    assert len(ranked) == 3
    assert ranked[0] == {"document": GUIDE, "page": RIGHT_PAGE, "score": 1.0}
    assert sorted((page["score"] for page in ranked), reverse=True) == [page["score"] for page in ranked]


def test_single_pages_are_ranked_against_each_other(url: str) -> None:
    documents = [f"{GUIDE}#page=1", f"ziprerank://{GUIDE}#page={RIGHT_PAGE}"]
    ranked = call(url, "rank_pages", query=QUERY, documents=documents).structured_content["result"]
    assert [page["page"] for page in ranked] == [RIGHT_PAGE, 1]


@pytest.mark.parametrize("width", [160, 800])
def test_a_page_is_shown_as_an_image(url: str, width: int) -> None:
    [content] = call(url, "page_image", document=GUIDE, page=RIGHT_PAGE, width=width).content
    assert (content.type, content.mime_type) == ("image", "image/jpeg")
    with Image.open(io.BytesIO(base64.b64decode(content.data))) as image:
        assert image.width == width


@pytest.mark.parametrize(
    ("tool", "arguments", "key", "message"),
    [
        ("rank_pages", {"query": "q", "documents": ["absent"]}, KEY, "404: There is no registered document 'absent'"),
        ("page_image", {"document": GUIDE, "page": 999}, KEY, "page 999 does not exist"),
        ("list_documents", {}, "another-key", "401: The API key is missing or wrong"),
    ],
)
def test_a_refusal_of_the_service_is_told_to_the_model(
    url: str, tool: str, arguments: dict[str, Any], key: str, message: str
) -> None:
    answer = call(url, tool, key=key, **arguments)
    assert answer.is_error
    assert message in answer.content[0].text


def test_a_service_that_is_not_there_is_told_to_the_model() -> None:
    answer = call("http://127.0.0.1:9", "list_documents")
    assert answer.is_error
    assert "http://127.0.0.1:9 cannot be reached" in answer.content[0].text


def test_the_command_ends_with_its_input() -> None:
    command = [sys.executable, *ZIPRERANK, "mcp"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_SECONDS, check=False)
    assert (done.returncode, done.stdout) == (0, b"")
