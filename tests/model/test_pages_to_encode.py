"""Which pages of a request can be encoded ahead of it."""

import numpy as np
import pytest

from model import PageImage, PreparedRequest, Reranker, RerankerConfig
from tests.conformance import CHECKPOINT

MEBIBYTE = 1 << 20


def loaded(*, cache_bytes: int) -> Reranker:
    config = RerankerConfig(device="cpu", dtype="float32", feature_cache_gpu_bytes=cache_bytes)
    return Reranker.from_checkpoint(str(CHECKPOINT), config)


def request_of(reranker: Reranker, *brightness: int) -> PreparedRequest:
    """Pages of one colour each."""
    images = [PageImage(pixels=np.full((96, 96, 3), value, np.uint8)) for value in brightness]
    pages = [reranker.prepare_page(image, tenant=b"") for image in images]
    return reranker.prepare("locks", pages)


def test_pages_are_those_that_are_not_cached_each_once() -> None:
    reranker = loaded(cache_bytes=64 * MEBIBYTE)
    request = request_of(reranker, 10, 20, 10, 30)
    first, second, _, third = request.pages

    def unknown() -> list[bytes]:
        return [page.content_hash for page in reranker.pages_to_encode(request)]

    assert unknown() == [page.content_hash for page in (first, second, third)]
    assert reranker.encode([first]) == 1
    assert unknown() == [page.content_hash for page in (second, third)]
    reranker.encode([second, third])
    assert not reranker.pages_to_encode(request) and reranker.patches_to_encode(request) == 0


def test_scores_are_the_same_after_the_pages_were_encoded_one_by_one() -> None:
    whole, pieces = loaded(cache_bytes=64 * MEBIBYTE), loaded(cache_bytes=64 * MEBIBYTE)
    [expected] = whole.score([request_of(whole, 10, 200, 30)])
    request = request_of(pieces, 10, 200, 30)
    for page in request.pages:
        pieces.encode([page])
    [found] = pieces.score([request])
    assert found.order == expected.order
    assert found.logits == pytest.approx(expected.logits, abs=1e-4)


def test_nothing_is_encoded_ahead_where_it_would_not_stay_in_the_cache() -> None:
    for cache_bytes in (0, 1000):
        reranker = loaded(cache_bytes=cache_bytes)
        assert not reranker.pages_to_encode(request_of(reranker, 10, 20))
