"""The playground in a browser: the whole way with the keyboard, a real drop, both colour schemes, wide and narrow."""

import base64
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.commands.demo import PDF, QUERY
from tests.browser.walks import HERE, walk
from tests.documents import make_pdf
from tests.servers import RunningService, running_service

LIMIT_BYTES = 200_000
ON: dict[str, Any] = {"playground": True, "max_file_bytes": LIMIT_BYTES}


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running_service(**ON) as running:
        yield running


@pytest.fixture
def dropped(tmp_path: Path) -> Path:
    path = tmp_path / "two pages.pdf"
    path.write_bytes(make_pdf(2))
    return path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.pdf"
    path.write_bytes(b"%PDF-" + bytes(LIMIT_BYTES))
    return path


def check(seen: dict[str, Any], service: RunningService, headers: dict[str, str]) -> None:
    """Every part of the walk did what it should."""
    assert seen["foreign"] == []
    assert seen["faults"] == []
    assert "195.3 KB" in seen["limits"] or "0.2 MB" in seen["limits"], seen["limits"]
    assert "document" in seen["withoutDocument"].lower()
    assert seen["ratio"] == "35 %"
    body = {
        "query": QUERY,
        "documents": [{"pdf": base64.b64encode(PDF.read_bytes()).decode(), "id": "town-guide.pdf"}],
        "ziprerank": {"keep_ratio": 0.35, "include_kept_tokens": True},
    }
    answer = service.client.post("/rerank", json=body, headers=headers).json()
    order = [result["page"] for result in answer["results"]]
    assert seen["labels"] == [f"town-guide.pdf, page {page}" for page in order]
    assert seen["status"] == f"{len(order)} pages ranked. The best is {seen['labels'][0]}."
    arrows = [re.match(r"([▲▼=])(\d*)", mark) for mark in seen["moves"]]
    signs = {"▲": 1, "▼": -1, "=": 0}
    assert [signs[arrow[1]] * int(arrow[2] or 0) for arrow in arrows if arrow] == [
        page - place for place, page in enumerate(order, start=1)
    ]
    assert all("the given order" in mark for mark in seen["moves"])
    assert re.search(r"Kendall's tau -?[01]\.\d\d", seen["agreement"])
    assert seen["stages"] == ["Queue", "Render", "Vision", "Prune", "Language", "Other"]
    assert re.search(r"\d+ cached, \d+ computed", seen["vision"]) and sum(seen["widths"]) > 100
    assert seen["overlaysShown"] == seen["overlaysHidden"] == 2 * len(order)
    kept = answer["results"][0]["kept_tokens"]
    shown = {"rows": kept["rows"], "columns": kept["columns"], "kept": list(base64.b64decode(kept["mask"]))}
    assert seen["mask"] == shown and seen["covers"]
    assert f"{sum(shown['kept'])} of {len(shown['kept'])} visual tokens" in seen["facts"]
    assert [seen["view"], seen["nextView"]] == seen["labels"][:2]
    assert seen["labels"][1] in seen["focusAfterView"]
    assert seen["ndcg"].startswith(f"A {1 / math.log2(3):.3f}, B ")
    [line] = map(json.loads, seen["judged"].splitlines())
    assert line["query"] == QUERY and line["request_id"] == seen["requestId"]
    assert [page["page"] for page in line["pages"] if page["relevant"]] == [order[1]]
    assert [page["page"] for page in line["pages"]] == order
    assert seen["copied"] == seen["python"] and "httpx.post(" in seen["python"]
    assert "cohere.ClientV2" in seen["cohere"] and seen["curl"].startswith("curl ")
    assert "large.pdf" in seen["tooLarge"] and "limit" in seen["tooLarge"] and seen["putsOfTooLarge"] == 0
    assert seen["documents"][0].startswith("two pages.pdf") and len(seen["documents"]) == 1
    assert sorted(seen["droppedLabels"]) == ["two pages.pdf, page 1", "two pages.pdf, page 2"]
    assert seen["leftBehind"] == [], "the page that is closed deletes its documents"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_whole_way_with_the_keyboard_and_a_drop(
    service: RunningService, scheme: str, width: int, dropped: Path, large: Path
) -> None:
    seen = walk(service.url, scheme=scheme, width=width, query=QUERY, dropped=dropped, large=large)
    assert seen["complaints"] == []
    check(seen, service, {})
    run_shown(seen["python"], PDF.parent)
    run_shown(seen["curl"], PDF.parent, shell=True)


def test_the_key_is_asked_for_once_behind_a_root_path(dropped: Path, large: Path) -> None:
    with running_service(**ON, api_key="a right key", root_path="/ranker") as service:
        url = f"{service.url}/ranker"
        seen = walk(url, key="a right key", scheme="light", width=1280, query=QUERY, dropped=dropped, large=large)
        assert "does not know" in seen["wrongKey"]
        assert {re.sub(r".*(status of 401).*", r"\1", complaint) for complaint in seen["complaints"]} == {
            "status of 401"
        }
        assert len(seen["complaints"]) == 2, "one answer without a key, and one to the wrong key"
        assert "a right key" not in seen["python"] + seen["curl"] + seen["cohere"] + seen["judged"]
        check(seen, service, {"authorization": "Bearer a right key"})


def run_shown(code: str, folder: Path, *, shell: bool = False) -> None:
    """Run code that the page offers, beside the sample."""
    command = ["bash", "-c", code] if shell else [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 0 and "town-guide.pdf#page=5" in ended.stdout, ended.stderr


def test_the_figures_of_the_page_are_right() -> None:
    ended = subprocess.run(["node", "--test", str(HERE / "ranking.test.mjs")], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-4000:]
