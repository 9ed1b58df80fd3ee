"""The pipeline's own rules: what it refuses, and what must not change a score."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from model import (
    KeepRatioError,
    PageCountError,
    PageImageError,
    PageScores,
    Reranker,
    RerankerConfig,
    ScoreError,
    StageClock,
    WindowError,
    WindowStrategy,
)
from tests.compressors import SelectedBy

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

    [plain] = replace(reranker, compressor=SelectedBy(keep_all)).score([request])
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


def test_the_largest_window_bounds_the_largest_request(reranker: Reranker) -> None:
    longest = reranker.max_window_cost(100)
    square = np.zeros((1024, 1024, 3), dtype=np.uint8)
    request = reranker.prepare("\U0010ffff" * 100, [square] * 20, 1.0)
    assert request.token_count <= longest.tokens and request.patch_count == longest.patches


def test_a_second_query_over_known_pages_does_no_vision_work() -> None:
    reranker = make_reranker()
    pages = [reranker.prepare_page(page) for page in random_pages(3)]
    reranker.score([reranker.prepare("first", pages)])
    assert reranker.patches_to_encode(reranker.prepare("second", pages)) == 0
    clock = reranker.stage_clock()
    reranker.score([reranker.prepare("second", pages)], observe=clock.observe)
    assert "vision" not in clock.seconds()
    assert (reranker.feature_cache.hits, reranker.feature_cache.misses) == (3, 3)


@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.05])
def test_scores_are_bit_identical_with_the_cache_on_and_off_and_for_hits_and_misses(ratio: float) -> None:
    """Also where some pages are known and others not, and where a page is so small that it fills no matrix kernel.

    Over one set of weights: products over weights that lie elsewhere in memory may round differently.
    """
    cached = make_reranker()
    plain = replace(cached, feature_cache=make_reranker(feature_cache_gpu_bytes=0).feature_cache)
    assert cached.feature_cache.is_on and not plain.feature_cache.is_on
    for count in (1, 2, 5):
        request = cached.prepare("which page?", random_pages(count), ratio)
        [off], [miss], [hit] = (reranker.score([request]) for reranker in (plain, cached, cached))
        assert off.logits == miss.logits == hit.logits


def test_a_page_that_occurs_twice_in_a_batch_is_encoded_once() -> None:
    reranker = make_reranker()
    first, second = random_pages(2)
    reranker.score([reranker.prepare("a", [first, second, first]), reranker.prepare("b", [second])])
    assert reranker.feature_cache.misses == 2


def test_pages_of_different_tenants_share_nothing() -> None:
    reranker = make_reranker()
    [page] = random_pages(1)
    own, other = (reranker.prepare_page(page, tenant=tenant) for tenant in (b"a", b"b"))
    reranker.score([reranker.prepare("a", [own])])
    assert reranker.patches_to_encode(reranker.prepare("a", [own])) == 0
    assert reranker.patches_to_encode(reranker.prepare("a", [other])) > 0


def test_pages_encoded_ahead_are_found_by_a_request() -> None:
    reranker = make_reranker()
    pages = [reranker.prepare_page(page) for page in random_pages(3)]
    assert reranker.encode(pages) == 3
    assert reranker.encode(pages) == 0
    assert reranker.patches_to_encode(reranker.prepare("a", pages)) == 0


@pytest.mark.parametrize("strategy", ["sliding", "tournament"])
def test_every_page_is_encoded_once_however_many_windows_see_it(strategy: WindowStrategy) -> None:
    reranker = make_reranker(window_size=4, stride=2)
    ranking = reranker.rank("a", random_pages(11), strategy=strategy)
    assert sorted(ranking.order) == list(range(11))
    assert len(ranking.windows) > 2
    assert reranker.feature_cache.misses == 11


def test_a_started_batch_is_complete_on_a_cpu() -> None:
    reranker = make_reranker()
    pending = reranker.start([reranker.prepare("a", [PAGE])])
    assert pending.is_complete
    [first], [again] = pending.wait(), reranker.score([reranker.prepare("a", [PAGE])])
    assert (first.logits, first.cached_pages, again.cached_pages) == (again.logits, 0, 1)
    assert reranker.start([]).wait() == []


def test_another_batch_may_be_scored_between_the_layers_of_one() -> None:
    reranker = make_reranker()
    long, short = (reranker.prepare("a", random_pages(count)) for count in (5, 2))
    [expected_long], [expected_short] = reranker.score([long]), reranker.score([short])
    between: list[PageScores] = []
    [answer] = reranker.start([long], between_layers=lambda: between.extend(reranker.score([short]))).wait()
    assert len(between) == 3 * (reranker.model_config.text.num_hidden_layers - 1), "before each layer, and twice within"
    assert answer.logits == pytest.approx(expected_long.logits, abs=1e-4)
    for scores in between:
        assert scores.logits == pytest.approx(expected_short.logits, abs=1e-4)


def test_another_batch_may_be_scored_between_the_layers_of_a_vision_pass() -> None:
    expected_by = make_reranker()
    query, pages = "a", random_pages(5)
    [expected] = expected_by.score([expected_by.prepare(query, pages)])
    reranker = make_reranker()
    short = reranker.prepare(query, pages[3:])
    [expected_short] = expected_by.score([short])
    between: list[PageScores] = []
    prepared = reranker.prepare(query, pages)
    assert reranker.encode(prepared.pages, between_layers=lambda: between.extend(reranker.score([short]))) == 5
    assert len(between) == 3 * reranker.model_config.vision.depth
    for scores in between:
        assert scores.logits == pytest.approx(expected_short.logits, abs=1e-4)
    [answer] = reranker.score([prepared])
    assert answer.cached_pages == 5 and answer.logits == pytest.approx(expected.logits, abs=1e-4)


def test_compiled_layers_are_not_interrupted_within() -> None:
    reranker = make_reranker()
    pauses: list[bool] = []
    reranker.run_decoder_layer.is_compiled = True  # says the runner; it still runs them as written
    reranker.start([reranker.prepare("a", random_pages(2))], between_layers=lambda: pauses.append(True))
    blocks = 3 * reranker.model_config.vision.depth
    assert len(pauses) == blocks + reranker.model_config.text.num_hidden_layers - 1


def make_reranker(**config: Any) -> Reranker:
    return Reranker.from_checkpoint("demo", RerankerConfig(device="cpu", dtype="float32", **config))


def random_pages(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    sizes = [(448, 320), (64, 64), (300, 200)]
    return [generator.integers(0, 256, (*sizes[index % 3], 3), dtype=np.uint8) for index in range(count)]
