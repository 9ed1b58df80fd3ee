"""The code blocks of pages, and the table of docs/clients.md, where a comment before each block says what runs it."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CLIENTS = Path(__file__).parents[1] / "docs" / "clients.md"
SERVICE = "http://ziprerank:8000"
"""The service's address in recipes: as a store or a platform in another container sees it."""

_FENCE = re.compile(
    r"^(?P<comment><!-- run: (?P<runner>[^>]+?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of code."""

    runner: str  # of the comment before it; empty without
    language: str
    text: str
    line: int  # of the fence, from 1


@cache
def blocks(path: Path = CLIENTS) -> tuple[Block, ...]:
    page = path.read_text()
    return tuple(
        Block(
            runner=found["runner"] or "",
            language=found["language"],
            text=found["text"],
            line=page.count("\n", 0, found.start()) + 1,
        )
        for found in _FENCE.finditer(page)
    )


def block(runner: str) -> Block:
    """The one block with this runner."""
    [found] = [each for each in blocks() if each.runner == runner]
    return found


def table_rows(heading: str) -> list[tuple[str, ...]]:
    """The cells of the first table below a heading, less its head."""
    _, _, rest = CLIENTS.read_text().partition(f"\n{heading}\n")
    lines = [line for line in rest.split("\n## ")[0].splitlines() if line.startswith("|")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines[2:]]
