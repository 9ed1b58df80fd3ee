"""Names of wire formats stand in the dialects alone, so that a new dialect is one file."""

import re
from pathlib import Path

import pytest

SERVICE = Path(__file__).parents[2] / "service"
CLIENTS = {
    "commands/demo.py", "commands/mcp_requests.py", "commands/mcp_tools.py", "commands/rank_form.py", "commands/rank_table.py",
}  # fmt: skip
"""Parts that send requests over HTTP, as any other client does."""

WIRE_NAMES = (
    "relevance_score", "top_n", "raw_scores", "return_documents", "include_timings", "include_kept_tokens", "billed_units",
    "search_units", "api_version", "documents[",
)  # fmt: skip


@pytest.mark.parametrize("name", WIRE_NAMES)
def test_a_wire_name_is_known_to_dialects_alone(name: str) -> None:
    word = re.compile(
        rf"(?<![\w.]){re.escape(name)}" + ("" if name.endswith("[") else r"\b")
    )  # not gen_ai.rerank.top_n
    places = [
        f"{path.relative_to(SERVICE).as_posix()}:{number}"
        for path in sorted(SERVICE.rglob("*.py"))
        if path.parent.name != "dialects" and path.relative_to(SERVICE).as_posix() not in CLIENTS
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if word.search(line)
    ]
    assert places == []
