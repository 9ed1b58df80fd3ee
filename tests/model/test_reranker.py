"""The pipeline's own rules: what it refuses, and what must not change a score."""

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import model
from model import (
    KeepRatioError,
    PageCountError,
    PageImageError,
    Reranker,
    RerankerConfig,
    ScoreError,
    StageClock,
    WindowError,
)

PAGE = np.full((448, 320, 3), 255, dtype=np.uint8)
STAGES = ["upload", "vision", "compress", "pack", "language"]


@pytest.mark.parametrize("count", [0, 21])
def test_a_prompt_takes_1_to_20_pages(reranker: Reranker, count: int) -> None:
    with pytest.raises(PageCountError, match=f"{count} pages.*20"):
        reranker.prepare("a", [PAGE] * count)


def test_ranking_nothing_is_refused(reranker: Reranker) -> None:
    with pytest.raises(PageCountError):
        reranker.rank("a", [])


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.01, float("nan"), float("inf")])
def test_a_keep_ratio_outside_its_range_is_refused(reranker: Reranker, ratio: float) -> None:
    with pytest.raises(KeepRatioError, match="keep_ratio is"):
        reranker.prepare("a", [PAGE], ratio)
    with pytest.raises(KeepRatioError):
        RerankerConfig(keep_ratio=ratio)


def test_a_stride_above_the_window_is_refused() -> None:
    with pytest.raises(WindowError, match="window_size is 5 and stride is 6"):
        RerankerConfig(window_size=5, stride=6)


def test_a_bad_page_is_refused_before_anything_is_scored(reranker: Reranker) -> None:
    with pytest.raises(PageImageError):
        reranker.prepare("a", [PAGE, PAGE.astype(float)])


def test_counts_are_known_before_scoring_and_are_those_of_the_answer(reranker: Reranker) -> None:
    request = reranker.prepare("a", [PAGE, PAGE], 0.25)
    assert (request.visual_token_count, request.kept_token_count, request.patch_count) == (280, 70, 1120)
    [answer] = reranker.score([request])
    assert (answer.visual_tokens, answer.kept_tokens, answer.prompt_tokens) == (280, 70, request.token_count)


def test_keep_ratio_one_equals_no_compression(reranker: Reranker) -> None:
    request = reranker.prepare("a", [PAGE, PAGE], 1.0)

    def keep_all(similarity: torch.Tensor, pages: object) -> torch.Tensor:
        return torch.arange(len(similarity))

    [plain] = replace(reranker, select_tokens=keep_all).score([request])
    assert reranker.score([request])[0].logits == plain.logits


def test_a_prepared_page_is_prepared_once(reranker: Reranker) -> None:
    page = reranker.prepare_page(PAGE)
    assert reranker.prepare_page(page) is page


def test_stages_are_observed_in_order(reranker: Reranker) -> None:
    clock = reranker.stage_clock()
    assert isinstance(clock, StageClock)
    reranker.score([reranker.prepare("a", [PAGE])], observe=clock.observe)
    assert list(clock.seconds()) == STAGES


def test_scores_that_are_not_finite_are_an_error(reranker: Reranker) -> None:
    broken = replace(reranker, letter_rows=reranker.letter_rows * float("nan"))
    with pytest.raises(ScoreError):
        broken.rank("a", [PAGE])
    with pytest.raises(ScoreError):
        broken.warm_up()


def test_warm_up_is_a_real_forward(reranker: Reranker) -> None:
    assert len(reranker.warm_up().logits) == 2


def test_longest_window_bounds_the_largest_request(reranker: Reranker) -> None:
    tokens, patches = reranker.longest_window(100)
    square = np.zeros((1024, 1024, 3), dtype=np.uint8)
    request = reranker.prepare("\U0010ffff" * 100, [square] * 20, 1.0)
    assert request.token_count <= tokens and request.patch_count == patches


def test_the_front_door_lists_what_it_exports() -> None:
    assert model.__all__ == sorted(model.__all__, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(model, name) for name in model.__all__)


def test_nothing_waits_for_the_device_between_upload_and_scores() -> None:
    """No `.item()`, `.tolist()`, `.cpu()` or boolean mask in the stages; `_page_scores` reads the result, once a batch.

    (On a card `torch.cuda.set_sync_debug_mode("error")` proves the same: tests/gpu.)
    """
    folder = Path(model.__file__).parent
    stages = ("vision_encoder", "compressor", "sequence_packer", "language_model", "scorer", "rope")
    waiting = {"item", "tolist", "cpu", "numpy", "nonzero", "masked_select"}
    for stage in stages:
        tree = ast.parse((folder / f"{stage}.py").read_text())
        calls = {
            node.func.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        assert not calls & waiting, f"{stage} calls {calls & waiting}"
