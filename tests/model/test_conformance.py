"""The library against the numbers of the published code."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from model import Reranker
from model.compressor import PageShare, select_tokens
from model.config import ImageConfig
from model.image_processor import prepare_page, to_page_image, to_patches
from model.sequence_packer import mrope_positions
from tests.compressors import SelectedBy
from tests.conformance import CASES, TOLERANCE, WINDOW_CASES, Case, WindowCase, load_page
from tests.sequences import expanded_ids, expanded_positions, sha256_of

by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
full_only = pytest.mark.parametrize("case", [case for case in CASES if case.keep_ratio == 1], ids=lambda c: c.name)


@by_name
def test_scores_and_order_are_the_published_ones(reranker: Reranker, case: Case) -> None:
    ranking = reranker.rank(case.query, case.pages(), case.keep_ratio)
    assert ranking.logits == pytest.approx(case.scores, abs=TOLERANCE)
    assert ranking.order == case.ranking


@by_name
def test_kept_tokens_are_the_published_ones(reranker: Reranker, case: Case) -> None:
    if case.kept is None:
        return _assert_everything_is_kept(reranker, case)
    chosen = _kept_indices(reranker, case)
    assert [len(page) for page in chosen] == [len(page) for page in case.kept]
    assert chosen == [list(page) for page in case.kept]
    return None


def _assert_everything_is_kept(reranker: Reranker, case: Case) -> None:
    request = reranker.prepare(case.query, case.pages(), 1.0)
    assert request.kept_token_count == request.visual_token_count


def _kept_indices(reranker: Reranker, case: Case) -> list[list[int]]:
    """What the selection stage chose, by page."""
    seen: list[torch.Tensor] = []

    def watch(similarity: torch.Tensor, pages: Sequence[PageShare]) -> torch.Tensor:
        seen.append(select_tokens(similarity, pages))
        return seen[0]

    request = reranker.prepare(case.query, case.pages(), case.keep_ratio)
    replace(reranker, compressor=SelectedBy(watch)).score([request])
    kept, start, first = seen[0].tolist(), 0, 0
    by_page = []
    for page, count in zip(request.pages, request.kept_counts, strict=True):
        by_page.append([index - first for index in kept[start : start + count]])
        start, first = start + count, first + page.visual_token_count
    return by_page


@full_only
def test_token_sequence_is_the_published_one(reranker: Reranker, case: Case) -> None:
    request = reranker.prepare(case.query, case.pages(), 1.0)
    ids = expanded_ids(request, reranker.model_config.image_token_id)
    assert len(ids) == request.token_count == case.record["n_tokens"]
    assert ids[:40].tolist() == case.record["text_ids_head"]
    assert ids[-8:].tolist() == case.record["text_ids_tail"]
    assert sha256_of(ids) == case.record["input_ids_sha256"]
    assert list(reranker.prompts.letter_ids[: len(request.pages)]) == case.record["letter_ids"]


@full_only
def test_positions_are_the_published_ones(reranker: Reranker, case: Case) -> None:
    request = reranker.prepare(case.query, case.pages(), 1.0)
    text, visual = mrope_positions(request.prompt.segments, request.pages)
    positions = expanded_positions(request, text, visual)
    assert positions[:, -1].tolist() == case.record["position_ids_last"]
    assert sha256_of(positions) == case.record["position_ids_sha256"]


@full_only
def test_patches_are_the_published_ones(reranker: Reranker, case: Case) -> None:
    pages = [reranker.prepare_page(page) for page in case.pages()]
    assert [[1, page.rows * 2, page.columns * 2] for page in pages] == case.record["grid_thw"]
    image = reranker.model_config.image
    patches = torch.cat([to_patches(torch.from_numpy(page.pixels), image, torch.float32) for page in pages])
    assert list(patches.shape) == case.record["pixel_values_shape"]
    assert patches.mean().item() == pytest.approx(case.record["pixel_values_mean"], abs=1e-4)
    assert patches.std().item() == pytest.approx(case.record["pixel_values_std"], abs=1e-4)
    assert patches.flatten()[:8].tolist() == pytest.approx(case.record["pixel_values_first"], abs=1 / 127)


@pytest.mark.parametrize("case", WINDOW_CASES, ids=lambda case: case.name)
def test_windows_give_the_published_order(reranker: Reranker, case: WindowCase) -> None:
    config = replace(reranker.config, window_size=case.window_size, stride=case.stride)
    ranking = replace(reranker, config=config).rank(case.query, case.pages())
    assert ranking.order == case.ranking
    assert ranking.logits is None
    assert ranking.scores[case.ranking[0]] == 1.0


@pytest.mark.parametrize("start", [0, 1, 2])
def test_requests_packed_together_score_as_each_does_alone(reranker: Reranker, start: int) -> None:
    """Different page sizes, page counts and keep ratios in one batch."""
    requests = [reranker.prepare(case.query, case.pages(), case.keep_ratio) for case in CASES[start::3]]
    assert len(requests) > 1
    for request, packed in zip(requests, reranker.score(requests), strict=True):
        [alone] = reranker.score([request])
        assert packed.logits == pytest.approx(alone.logits, abs=1e-5)
        assert packed.order == alone.order


def test_order_of_arrival_changes_no_score(reranker: Reranker) -> None:
    cases = [case for case in CASES if case.name in ("five_small-0.25", "unicode_query-0.5", "long_query-1")]
    requests = [reranker.prepare(case.query, case.pages(), case.keep_ratio) for case in cases]
    forward, backward = reranker.score(requests), reranker.score(requests[::-1])[::-1]
    for one, other in zip(forward, backward, strict=True):
        assert one.logits == pytest.approx(other.logits, abs=1e-5)


def test_resized_pages_are_within_one_level_of_pillows() -> None:
    """Another program's bicubic, which rounds a little otherwise, on the pages that have to be resized."""
    config = ImageConfig(patch_size=16, merge_size=2, temporal_patch_size=2, min_pixels=65536, max_pixels=16777216)
    differing = total = 0
    for name in ("page_20_724x1024.png", "page_21_1024x724.png", "page_24_1500x300.png", "page_26_333x517.png"):
        ours = prepare_page(load_page(name), config).pixels
        pillows = _resized_by_pillow(to_page_image(load_page(name)).pixels, ours.shape[:2])
        distance = np.abs(ours.astype(int) - pillows.astype(int))
        assert distance.max() <= 1
        differing, total = differing + int(np.count_nonzero(distance)), total + ours.size
    assert differing / total < 0.005


def _resized_by_pillow(pixels: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    height, width = size
    assert pixels.shape[:2] != (height, width)
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
