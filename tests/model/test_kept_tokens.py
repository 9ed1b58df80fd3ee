"""The kept visual tokens in an answer are those that the published rule keeps, computed here apart, and cost no second copy."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from model import FakeRankingModel, PreparedRequest, Reranker, RerankerConfig, no_observation
from model import reranker as pipeline
from model.device import Download, download

SIZES = [(448, 320), (64, 256), (300, 200)]  # height, width


@pytest.fixture(scope="module")
def model() -> Reranker:
    return Reranker.from_checkpoint("demo", RerankerConfig(device="cpu", dtype="float32"))


def pages(count: int, *, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (*SIZES[index % 3], 3), dtype=np.uint8) for index in range(count)]


def reporting(model: Reranker, query: str, images: Sequence[np.ndarray], keep_ratio: float) -> PreparedRequest:
    return replace(model.prepare(query, images, keep_ratio), reports_kept_tokens=True)


@torch.inference_mode()
def published_selection(model: Reranker, request: PreparedRequest) -> list[list[int]]:
    """For each page the row-major indices of the kept tokens, by cosine similarity in float64 and a plain sort."""
    ids = np.concatenate(request.prompt.segments)[: request.prompt.context_length]
    text = model.network.model.language_model.embed_tokens(torch.from_numpy(ids)).double().numpy()
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    selection = []
    for page, kept in zip(request.pages, request.kept_counts, strict=True):
        visual = model.encoder.encode([page], no_observation).main.double().numpy()
        visual /= np.linalg.norm(visual, axis=1, keepdims=True)
        similarity = (visual @ text.T).max(axis=1)
        selection.append(sorted(sorted(range(len(similarity)), key=lambda index: -similarity[index])[:kept]))
    return selection


@pytest.mark.parametrize("keep_ratio", [0.1, 0.5, 1.0])
def test_the_kept_tokens_of_each_page_are_those_of_the_published_rule(model: Reranker, keep_ratio: float) -> None:
    first = reporting(model, "bank loan interest", pages(3), keep_ratio)
    silent = model.prepare("museum", pages(2, seed=1), keep_ratio)
    last = reporting(model, "ferry timetable", pages(2, seed=2), keep_ratio)
    answers = model.score([first, silent, last])
    assert answers[1].kept is None
    for request, answer in ((first, answers[0]), (last, answers[2])):
        assert answer.kept is not None
        assert [(kept.rows, kept.columns) for kept in answer.kept] == [
            (page.rows, page.columns) for page in request.pages
        ]
        assert all(len(kept.mask) == kept.rows * kept.columns for kept in answer.kept)
        found = [[index for index, value in enumerate(kept.mask) if value == 1] for kept in answer.kept]
        assert found == published_selection(model, request)
        assert sum(map(len, found)) == answer.kept_tokens


def test_a_report_changes_no_score(model: Reranker) -> None:
    images = pages(4)
    plain = model.score([model.prepare("bank loan", images, 0.5), model.prepare("museum", images[:2], 0.5)])
    told = model.score(
        [reporting(model, "bank loan", images, 0.5), model.prepare("museum", images[:2], 0.5)],
    )
    assert [replace(answer, kept=None) for answer in told] == [replace(answer, cached_pages=told[index].cached_pages)
                                                               for index, answer in enumerate(plain)]  # fmt: skip


@pytest.mark.parametrize("is_reporting", [False, True])
def test_scores_and_kept_tokens_come_down_in_one_copy(
    model: Reranker, monkeypatch: pytest.MonkeyPatch, is_reporting: bool
) -> None:
    copies: list[torch.Size] = []

    def counting(tensor: torch.Tensor) -> Download:
        copies.append(tensor.shape)
        return download(tensor)

    monkeypatch.setattr(pipeline, "download", counting)
    request = model.prepare("bank loan", pages(2), 0.5)
    model.score([replace(request, reports_kept_tokens=is_reporting)] * 2)
    letters = len(model.letter_rows)
    expected = 2 * letters * 4 + 2 * request.visual_token_count
    assert copies == [torch.Size([expected]) if is_reporting else torch.Size([2, letters])]


def test_the_stand_in_reports_as_many_tokens_as_it_counts(model: Reranker) -> None:
    fake = FakeRankingModel(model=model)
    request = reporting(model, "bank loan", pages(2), 0.3)
    [answer] = fake.start([request], observe=no_observation).wait()
    assert answer.kept is not None
    assert [sum(kept.mask) for kept in answer.kept] == list(request.kept_counts)
    assert fake.start([model.prepare("a", pages(1))], observe=no_observation).wait()[0].kept is None
