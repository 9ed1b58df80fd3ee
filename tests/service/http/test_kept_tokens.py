"""`ziprerank.include_kept_tokens`: each result says which visual tokens of its page were kept, in JSON and in a form."""

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from pydantic import TypeAdapter

from model import PageScores, PreparedRequest, Reranker, score_in_input_order
from service.dialects.answers import RerankResponse
from tests.documents import make_image, make_pdf
from tests.servers import RunningService, fake_loader, running_service
from tests.service.http.requests import rerank, rerank_file

SIX_PAGES = make_pdf(6, width=300, height=400)
ASKED: dict[str, Any] = {"ziprerank": {"include_kept_tokens": True, "keep_ratio": 0.4}}
_ANSWER = TypeAdapter(RerankResponse)


@pytest.fixture(scope="module")
def service(reranker: Reranker) -> Iterator[RunningService]:
    with running_service(lambda settings: reranker) as running:
        yield running


def masks(answer: Any) -> dict[str, tuple[int, int, bytes]]:
    body = answer.json()
    _ANSWER.validate_python(body, extra="forbid")
    assert body["data"] == body["results"]
    of_pages = {result["id"]: result["kept_tokens"] for result in body["results"]}
    return {id: (kept["rows"], kept["columns"], base64.b64decode(kept["mask"])) for id, kept in of_pages.items()}


def test_each_result_has_the_mask_of_its_page(service: RunningService) -> None:
    documents = [{"pdf": base64.b64encode(SIX_PAGES).decode(), "id": "a"}, {"text": "a locksmith"}]
    answer = rerank(service, documents, **ASKED, top_n=4)
    found = masks(answer)
    assert len(found) == 4
    for rows, columns, mask in found.values():
        assert len(mask) == rows * columns
        assert sum(mask) == mask.count(1) == max(1, round(0.4 * rows * columns))
    again = rerank(service, documents, **ASKED).json()
    assert sum(base64.b64decode(result["kept_tokens"]["mask"]).count(1) for result in again["results"]) == (
        rerank(service, documents, ziprerank={"keep_ratio": 0.4, "include_timings": True})
        .json()["ziprerank"]["visual_tokens"]["after"]
    )  # fmt: skip


def test_a_form_can_ask_for_them_too(service: RunningService) -> None:
    file = ("file", ("photo.png", make_image(), "image/png"))
    body = {"query": "locks", "ziprerank": json.dumps(ASKED["ziprerank"])}
    [(rows, columns, mask)] = masks(service.client.post("/rerank", data=body, files=[file])).values()
    assert len(mask) == rows * columns


def test_no_answer_has_them_unasked(service: RunningService) -> None:
    answers = [
        rerank(service, [{"pdf": base64.b64encode(SIX_PAGES).decode()}], ziprerank={"include_timings": True}),
        rerank_file(service, ("photo.png", make_image(), "image/png")),
    ]
    assert not any("kept_tokens" in result for answer in answers for result in answer.json()["results"])


@pytest.mark.parametrize("strategy", ["sliding", "tournament"])
def test_of_several_windows_the_last_one_counts_that_ranked_the_page(reranker: Reranker, strategy: str) -> None:
    turns = count(1)
    windows: list[tuple[tuple[bytes, ...], int]] = []  # the hashes of the pages, and the number of the window

    def numbered(batch: Sequence[PreparedRequest]) -> list[PageScores]:
        """As its mask each page has the number of the window."""
        answers = []
        for request, answer in zip(batch, score_in_input_order(batch), strict=True):
            number = next(turns)
            windows.append((tuple(page.content_hash for page in request.pages), number))
            assert answer.kept is not None
            answers.append(replace(answer, kept=tuple(replace(kept, mask=bytes([number])) for kept in answer.kept)))
        return answers

    with running_service(fake_loader(reranker, numbered)) as service:
        options = {"include_kept_tokens": True, "window_size": 3, "stride": 2, "window_strategy": strategy}
        documents = [{"pdf": base64.b64encode(SIX_PAGES).decode(), "id": "a"}]
        found = masks(rerank(service, documents, ziprerank=options))
    last = {page: number for pages, number in windows for page in pages}
    assert len(windows) > 2 and len(last) == len(found) == 6
    assert sorted(mask[0] for _, _, mask in found.values()) == sorted(last.values())
