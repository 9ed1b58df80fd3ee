"""The model as a service sees it, and the stand-in for it."""

from dataclasses import replace

import numpy as np
import pytest

from model import FakeRankingModel, PageImage, PageScores, RankingModel, Reranker, RerankerConfig

PAGE = PageImage(pixels=np.full((448, 320, 3), 255, dtype=np.uint8))


@pytest.fixture(scope="module")
def remembering() -> Reranker:
    """Remembers up to 1 MiB of page features."""
    config = RerankerConfig(device="cpu", dtype="float32", feature_cache_gpu_bytes=2**20)
    return Reranker.from_checkpoint("demo", config)


def test_a_model_describes_how_it_runs(reranker: Reranker) -> None:
    info = replace(reranker, name="small", revision="abc", quantise="int8", quantise_reason="as asked").describe()
    assert (info.name, info.revision, info.quantise, info.quantise_reason) == ("small", "abc", "int8", "as asked")
    assert (info.device, info.device_name, info.dtype, info.memory_plan) == ("cpu", "cpu", "float32", None)
    assert info.vision_attention.kernel == reranker.vision_attention.name
    assert info.text_attention.reason == reranker.text_attention.reason
    assert (info.vision_layers.is_compiled, info.text_layers.compile_seconds) == (False, None)
    assert (info.feature_cache_device_bytes, info.feature_cache_host_bytes) == (0, 0)


def test_the_counts_of_the_feature_cache_follow_its_use(remembering: Reranker) -> None:
    before = remembering.cache_counts()
    request = remembering.prepare("a", [remembering.prepare_page(PAGE, tenant=b"counts")])
    remembering.score([request, request])
    remembering.score([request])
    after = remembering.cache_counts()
    assert (after.hits - before.hits, after.misses - before.misses) == (1, 1)
    assert 0 < after.device_bytes <= remembering.describe().feature_cache_device_bytes
    assert after.host_bytes == 0


def test_the_fake_prepares_as_the_model_does_and_scores_as_configured(reranker: Reranker) -> None:
    def score_backwards(batch: object) -> list[PageScores]:
        return [PageScores(logits=(0.0, 1.0), order=(1, 0), visual_tokens=1, kept_tokens=1, prompt_tokens=1)]

    fake: RankingModel = FakeRankingModel(model=reranker, score_batch=score_backwards)
    pages = [fake.prepare_page(PAGE, tenant=b"")] * 2
    request = fake.prepare("a", pages, 0.5)
    assert request.token_count == reranker.prepare("a", [PAGE, PAGE], 0.5).token_count
    [scores] = fake.start([request], observe=fake.stage_clock().observe).wait()
    assert scores.order == (1, 0)
    assert (fake.patches_to_encode(request), fake.encode(pages)) == (0, 2)
    assert fake.describe() == replace(reranker.describe(), name="fake")


def test_the_stand_in_gives_scores_that_fall_from_page_to_page_where_it_is_told_none(reranker: Reranker) -> None:
    fake = FakeRankingModel(model=reranker)
    request = fake.prepare("a", [fake.prepare_page(PAGE, tenant=b"")] * 3)
    [scores] = fake.start([request], observe=fake.stage_clock().observe).wait()
    assert (scores.order, scores.logits) == ((0, 1, 2), (0.0, -1.0, -2.0))
    assert scores.prompt_tokens == request.token_count
