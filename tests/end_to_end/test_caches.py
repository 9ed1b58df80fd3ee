"""What a second request over known pages costs: no rendering, no vision work, a fraction of the time, the same scores."""

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.app import load_reranker
from service.startup import LoadModel
from tests.documents import make_pdf
from tests.servers import RunningService, running_service, settings_for_tests

PAGES = 20


@pytest.fixture(scope="module")
def remembers_as_set() -> LoadModel:
    """A `load` that gives every service the same weights, so that scores are the same to the bit, and a cache of its own.

    (Products over weights that lie elsewhere in memory may round differently.)
    """
    demo = load_reranker(settings_for_tests())
    return lambda settings: replace(demo, feature_cache=load_reranker(settings).feature_cache)


@pytest.fixture(scope="module")
def service(remembers_as_set: LoadModel) -> Iterator[RunningService]:
    with running_service(remembers_as_set) as running:
        yield running


def make_pages(count: int, *, seed: int, height: int = 1024, width: int = 724) -> list[bytes]:
    generator = np.random.default_rng(seed)
    pages = []
    for _ in range(count):
        blocks = generator.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        data = io.BytesIO()
        Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST).save(data, "JPEG", quality=80)
        pages.append(data.getvalue())
    return pages


def rerank_images(service: RunningService, query: str, pages: list[bytes], **fields: str) -> dict[str, Any]:
    files = [("file", (f"{index}.jpg", page, "image/jpeg")) for index, page in enumerate(pages)]
    data = {"query": query, "ziprerank": '{"include_timings": true}', "raw_scores": "true", **fields}
    answer = service.client.post("/rerank", data=data, files=files)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def work_done(service: RunningService) -> dict[str, float]:
    return {
        "rendered": sum(
            service.metric("ziprerank_raster_page_duration_seconds_count", stage=stage)
            for stage in ("render", "decode")
        ),
        "vision passes": service.metric("ziprerank_stage_duration_seconds_count", stage="vision"),
        "image misses": service.metric("ziprerank_cache_misses_total", cache="image"),
        "vision misses": service.metric("ziprerank_cache_misses_total", cache="vision"),
    }


def hits(service: RunningService, cache: str) -> float:
    return service.metric("ziprerank_cache_hits_total", cache=cache)


def test_the_same_pages_with_another_query_are_neither_rendered_nor_encoded_again(service: RunningService) -> None:
    pages = make_pages(PAGES, seed=1)
    cold = rerank_images(service, "first query", pages)
    before, image_hits, vision_hits = work_done(service), hits(service, "image"), hits(service, "vision")
    warm = rerank_images(service, "another query", pages)
    assert work_done(service) == before
    assert (hits(service, "image") - image_hits, hits(service, "vision") - vision_hits) == (PAGES, PAGES)
    # An eighth of the time on an idle machine; a busy one may slow some down, but not the quickest of three to the first.
    others = [rerank_images(service, query, pages) for query in ("a third one", "a fourth one")]
    fastest = min(body["ziprerank"]["timings_ms"]["total"] for body in (warm, *others))
    assert fastest < cold["ziprerank"]["timings_ms"]["total"]
    assert (cold["ziprerank"]["cache"], warm["ziprerank"]["cache"]) == (
        {"hits": 0, "misses": PAGES},
        {"hits": PAGES, "misses": 0},
    )
    assert not {"render", "decode", "vision"} & set(warm["ziprerank"]["timings_ms"])


def test_scores_are_bit_identical_with_all_caches_on_and_off(
    service: RunningService, remembers_as_set: LoadModel
) -> None:
    pages = make_pages(6, seed=2, height=448, width=320)
    off: dict[str, Any] = {"feature_cache_gpu_bytes": 0, "feature_cache_host_bytes": 0, "page_cache_bytes": 0}
    with running_service(remembers_as_set, **off) as plain:
        for fields in ({}, {"ziprerank": '{"keep_ratio": 0.1}'}):
            answers = [rerank_images(run, "which page?", pages, **fields) for run in (plain, service, service, plain)]
            scores = [{result["index"]: result["relevance_score"] for result in body["results"]} for body in answers]
            assert scores == [scores[0]] * 4
        assert hits(plain, "vision") == hits(plain, "image") == 0


def test_a_pdf_that_is_sent_again_is_not_rendered_again_whatever_pages_are_asked_for(service: RunningService) -> None:
    files = [("file", ("report.pdf", make_pdf(9), "application/pdf"))]
    ask = {"query": "a", "pages": "1-6"}
    assert service.client.post("/rerank", data=ask, files=files).status_code == 200
    before = work_done(service)["rendered"]
    answer = service.client.post("/rerank", data={"query": "b", "pages": "6,2,3"}, files=files).json()
    assert sorted(result["page"] for result in answer["results"]) == [2, 3, 6]
    assert work_done(service)["rendered"] == before
    service.client.post("/rerank", data={"query": "b", "pages": "5-8"}, files=files)
    assert work_done(service)["rendered"] == before + 2


def test_caches_stay_within_their_bytes(service: RunningService) -> None:
    limits: dict[str, Any] = {
        "feature_cache_gpu_bytes": 2_000_000,
        "feature_cache_host_bytes": 1_000_000,
        "page_cache_bytes": 3_000_000,
    }
    with running_service(**limits) as small:
        for seed in range(8):
            rerank_images(small, "which page?", make_pages(4, seed=seed, height=448, width=320))
            assert small.metric("ziprerank_feature_tier_bytes", tier="gpu") <= 2_000_000
            assert small.metric("ziprerank_feature_tier_bytes", tier="host") <= 1_000_000
            assert small.metric("ziprerank_cache_bytes", cache="image") <= 3_000_000
        for cache in ("vision", "image"):
            assert small.metric("ziprerank_cache_evictions_total", cache=cache) > 0
        assert small.metric("ziprerank_feature_tier_bytes", tier="host") > 500_000


@pytest.mark.parametrize("strategy", ["sliding", "tournament"])
def test_each_page_of_a_long_document_is_encoded_once(service: RunningService, strategy: str) -> None:
    pages = make_pages(45, seed=len(strategy), height=128, width=96)
    before = work_done(service)["vision misses"]
    body = rerank_images(service, "which page?", pages, ziprerank=f'{{"window_strategy": "{strategy}"}}')
    assert work_done(service)["vision misses"] - before == 45
    assert body["meta"]["windows"] == 4
    assert sorted(result["index"] for result in body["results"]) == list(range(45))


def test_an_unknown_strategy_is_refused(service: RunningService) -> None:
    files = [("file", ("a.pdf", make_pdf(1), "application/pdf"))]
    options = {"query": "a", "ziprerank": '{"window_strategy": "bubble"}'}
    answer = service.client.post("/rerank", data=options, files=files)
    assert answer.status_code == 400 and "window_strategy" in answer.json()["message"]
