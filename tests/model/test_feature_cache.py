"""The cache keeps bits, bounds and the order of use; both tiers, on the CPU."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.dataflow import VisualTokens
from model.errors import ConfigurationError
from model.feature_cache import Arena, FeatureCache, FeatureShape

SHAPE = FeatureShape(levels=3, width=4, dtype=torch.float32)
CPU = torch.device("cpu")


def features(token_count: int, seed: int = 0) -> VisualTokens:
    main, *deepstack = torch.randn(3, token_count, 4, generator=torch.Generator().manual_seed(seed)).unbind()
    return VisualTokens(main=main, deepstack=tuple(deepstack))


def make_cache(device_tokens: int, host_tokens: int = 0) -> FeatureCache:
    device_bytes, host_bytes = device_tokens * SHAPE.token_bytes, host_tokens * SHAPE.token_bytes
    return FeatureCache(SHAPE, device=CPU, device_bytes=device_bytes, host_bytes=host_bytes)


def assert_same(found: VisualTokens | None, expected: VisualTokens) -> None:
    assert found is not None
    assert torch.equal(found.main, expected.main)
    assert all(torch.equal(a, b) for a, b in zip(found.deepstack, expected.deepstack, strict=True))


def test_what_comes_out_is_bit_for_bit_what_went_in() -> None:
    cache = make_cache(10)
    cache.put(b"a", features(3, seed=1))
    cache.put(b"b", features(5, seed=2))
    assert_same(cache.get(b"a"), features(3, seed=1))
    assert_same(cache.get(b"b"), features(5, seed=2))
    assert cache.get(b"c") is None
    assert (cache.hits, cache.misses, cache.byte_count) == (2, 1, 8 * SHAPE.token_bytes)


def test_the_least_recently_used_page_leaves_first() -> None:
    cache = make_cache(10)
    for key in (b"a", b"b"):
        cache.put(key, features(5))
    cache.get(b"a")
    cache.put(b"c", features(4))
    assert b"a" in cache and b"b" not in cache and b"c" in cache
    assert cache.evictions == 1


def test_what_the_device_has_no_room_for_goes_to_the_host_and_comes_back() -> None:
    cache = make_cache(5, 20)
    cache.put(b"a", features(5, seed=1))
    cache.put(b"b", features(4, seed=2))
    assert cache.device_tier.byte_count == 4 * SHAPE.token_bytes
    found = cache.get(b"a")
    assert_same(found, features(5, seed=1))
    assert (cache.device_hits, cache.host_hits, cache.evictions) == (0, 1, 0)
    cache.put(b"a", features(5, seed=1))  # as the encoder does with what it has found
    assert b"a" in cache.device_tier and b"b" in cache.host_tier
    assert_same(cache.get(b"b"), features(4, seed=2))


def test_both_tiers_together_hold_what_fits_into_their_sum() -> None:
    cache = make_cache(5, 10)
    for key in (b"a", b"b", b"c"):
        cache.put(key, features(5))
    cache.put(b"a", features(5))  # a moves to the device, c takes its place behind it
    assert b"a" in cache.device_tier and b"b" in cache.host_tier and b"c" in cache.host_tier
    assert cache.evictions == 0


def test_pages_go_straight_to_the_host_where_the_device_keeps_nothing() -> None:
    cache = make_cache(0, 10)
    cache.put(b"a", features(5, seed=1))
    assert_same(cache.get(b"a"), features(5, seed=1))
    assert cache.host_hits == 1


def test_a_cache_without_tiers_keeps_nothing() -> None:
    cache = make_cache(0)
    cache.put(b"a", features(1))
    assert not cache.is_on and b"a" not in cache and cache.byte_count == cache.evictions == 0


def test_a_page_larger_than_a_tier_is_not_kept() -> None:
    cache = make_cache(3, 2)
    cache.put(b"a", features(4))
    assert b"a" not in cache and cache.byte_count == 0


def test_a_reset_gives_everything_back() -> None:
    cache = make_cache(6, 6)
    for number in range(4):
        cache.put(bytes([number]), features(3))
    cache.reset()
    assert cache.byte_count == cache.evictions == 0
    cache.put(b"a", features(6))
    assert b"a" in cache


@given(
    st.integers(0, 12),
    st.integers(0, 12),
    st.lists(st.integers(0, 9), max_size=60),
)
def test_both_tiers_stay_within_their_bytes_and_never_mix_pages_up(
    device_tokens: int, host_tokens: int, pages: list[int]
) -> None:
    """Page n has n % 5 + 1 tokens. As the encoder does: ask, and put whatever was found or computed."""
    cache = make_cache(device_tokens, host_tokens)
    for page in pages:
        expected, key = features(page % 5 + 1, seed=page), bytes([page])
        found = cache.get(key)
        if found is not None:
            assert_same(found, expected)
        cache.put(key, expected)
        for tier in (cache.device_tier, cache.host_tier):
            assert tier.byte_count <= tier.byte_limit
        largest = max(device_tokens, host_tokens)
        assert (key in cache) == (page % 5 + 1 <= largest)


def test_thousands_of_pages_stay_within_the_bytes() -> None:
    cache = make_cache(500, 300)
    rng = np.random.default_rng(0)
    for number in range(5_000):
        cache.put(number.to_bytes(4, "big"), features(int(rng.integers(1, 60)), seed=number))
        assert cache.byte_count <= cache.byte_limit
    assert cache.byte_count > 0.8 * cache.byte_limit  # and are not wasted


@given(st.data())
def test_an_arena_never_deals_out_a_place_twice_and_loses_none(data: st.DataObject) -> None:
    arena, held = Arena(20), dict[int, int]()
    for _ in range(30):
        gives_back: bool = data.draw(st.booleans())
        if held and gives_back:
            start = data.draw(st.sampled_from(sorted(held)))
            arena.give_back(start, held.pop(start))
        elif (taken := arena.take(size := data.draw(st.integers(1, 8)))) is not None:
            assert all(taken + size <= other or other + length <= taken for other, length in held.items())
            held[taken] = size
    for start, size in held.items():
        arena.give_back(start, size)
    assert arena.take(20) == 0


def test_a_block_that_does_not_fit_into_memory_is_a_clear_error() -> None:
    with pytest.raises(ConfigurationError, match="bytes for the feature cache"):
        make_cache(1 << 50)
