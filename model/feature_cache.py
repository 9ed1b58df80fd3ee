"""Page features by content: what the vision tower has computed once is not computed again, whatever the next query is.

Two tiers, each one block of memory taken at the start, so that neither ever holds more than it was given: one on the device
and behind it one in host memory (pinned beside a card), which takes what the first has no room for. The least recently used
page leaves first. What comes out is, bit for bit, what went in. Belongs to one set of weights and to the one thread that
scores: copies are ordered by the device's stream, and nothing here waits for them. Knows neither pages nor queries.
"""

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from model.dataflow import VisualTokens
from model.device import device_block, host_block


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureShape:
    """Values of one visual token: the main feature and one for every DeepStack level."""

    levels: int
    width: int
    dtype: torch.dtype

    @property
    def token_bytes(self) -> int:
        return self.levels * self.width * self.dtype.itemsize

    def places_in(self, byte_count: int) -> tuple[int, int]:
        """Size of a block of memory of at most that many bytes: a row for each token."""
        return byte_count // self.token_bytes, self.levels * self.width


class Arena:
    """Deals out contiguous pieces of `size` places, first fit; neighbouring pieces that come back join."""

    def __init__(self, size: int) -> None:
        self._free = [(0, size)] if size else []  # (start, size), ascending, never adjacent

    def take(self, size: int) -> int | None:
        """Where a piece of that size starts, None where no gap is large enough."""
        for index, (start, available) in enumerate(self._free):
            if available >= size:
                self._free[index : index + 1] = [(start + size, available - size)] if available > size else []
                return start
        return None

    def give_back(self, start: int, size: int) -> None:
        insort(self._free, (start, size))
        index = self._free.index((start, size))
        for left in (index, index - 1):  # the right neighbour first: joining it moves nothing on the left
            if 0 <= left < len(self._free) - 1 and sum(self._free[left]) == self._free[left + 1][0]:
                joined = (self._free[left][0], self._free[left][1] + self._free[left + 1][1])
                self._free[left : left + 2] = [joined]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    start: int  # first token's place
    features: VisualTokens  # views of the tier's memory

    @property
    def token_count(self) -> int:
        return len(self.features.main)


class CacheTier:
    """Features in one block of memory, whole pages in contiguous pieces, in order of use."""

    def __init__(self, memory: torch.Tensor, shape: FeatureShape) -> None:
        """memory: (places, levels * width), one place a token."""
        self._shape = shape
        self._memory = memory
        self._capacity = len(memory)
        self._arena = Arena(self._capacity)
        self._pages: OrderedDict[bytes, _Page] = OrderedDict()  # the most recently used last
        self._token_count = 0

    @property
    def byte_count(self) -> int:
        """Bytes that hold features."""
        return self._token_count * self._shape.token_bytes

    @property
    def byte_limit(self) -> int:
        return self._capacity * self._shape.token_bytes

    def __contains__(self, key: bytes) -> bool:
        return key in self._pages

    def has_room_for(self, token_count: int) -> bool:
        """Whether a page of that many tokens fits at all."""
        return token_count <= self._capacity

    def find(self, key: bytes) -> VisualTokens | None:
        """Views, good until something else is stored."""
        page = self._pages.get(key)
        if page is None:
            return None
        self._pages.move_to_end(key)
        return page.features

    def make_room(self, token_count: int) -> Iterator[tuple[bytes, VisualTokens]]:
        """Evict the least recently used pages until one of that size fits, each of them still readable as it is yielded."""
        while (start := self._arena.take(token_count)) is None:
            key, page = self._pages.popitem(last=False)
            yield key, page.features
            self._release(page)
        self._arena.give_back(start, token_count)

    def store(self, key: bytes, features: VisualTokens) -> None:
        """Copy a page in, as the most recently used; `make_room` has been called for it."""
        token_count = len(features.main)
        start = self._arena.take(token_count)
        assert start is not None, "room has been made"
        page = _Page(start=start, features=self._views(start, token_count))
        _copy(features, page.features)
        self._pages[key] = page
        self._token_count += token_count

    def discard(self, key: bytes) -> None:
        """Forget a page, where it is here."""
        if page := self._pages.pop(key, None):
            self._release(page)

    def clear(self) -> None:
        """Forget every page."""
        for key in list(self._pages):
            self.discard(key)

    def _release(self, page: _Page) -> None:
        self._arena.give_back(page.start, page.token_count)
        self._token_count -= page.token_count

    def _views(self, start: int, token_count: int) -> VisualTokens:
        """The levels of a page lie one after another, so that each is contiguous."""
        piece = self._memory[start : start + token_count]
        main, *deepstack = piece.view(self._shape.levels, token_count, self._shape.width).unbind()
        return VisualTokens(main=main, deepstack=tuple(deepstack))


class FeatureCache:
    """Both tiers. `get` never moves anything, so what it gave stays readable until the next `put`.

    A page that was found in host memory is to be `put` again once the batch has been read: that moves it to the device. What is
    `put` must be copies, not the views that `get` gave.
    """

    def __init__(self, shape: FeatureShape, *, device: torch.device, device_bytes: int, host_bytes: int) -> None:
        """Raises: ConfigurationError where the memory is not to be had."""
        self._device = device
        self.device_tier = CacheTier(device_block(shape.places_in(device_bytes), shape.dtype, device), shape)
        self.host_tier = CacheTier(host_block(shape.places_in(host_bytes), shape.dtype, device), shape)
        self.device_hits = 0
        self.host_hits = 0
        self.misses = 0
        self.evictions = 0  # pages that left the cache altogether

    @property
    def hits(self) -> int:
        return self.device_hits + self.host_hits

    @property
    def byte_count(self) -> int:
        """Bytes that hold features, in both tiers."""
        return self.device_tier.byte_count + self.host_tier.byte_count

    @property
    def byte_limit(self) -> int:
        """What both tiers have taken."""
        return self.device_tier.byte_limit + self.host_tier.byte_limit

    @property
    def is_on(self) -> bool:
        return self.byte_limit > 0

    def __contains__(self, key: bytes) -> bool:
        return key in self.device_tier or key in self.host_tier

    def get(self, key: bytes) -> VisualTokens | None:
        """A page's features on the device."""
        if (found := self.device_tier.find(key)) is not None:
            self.device_hits += 1
            return found
        if (found := self.host_tier.find(key)) is not None:
            self.host_hits += 1
            return found.to(self._device)
        self.misses += 1
        return None

    def put(self, key: bytes, features: VisualTokens) -> None:
        """Keep a copy. A page that the device's tier already holds stays as it is."""
        if key in self.device_tier:
            return
        if self.device_tier.has_room_for(len(features.main)):
            self._put_on_device(key, features)
        elif self.is_on and key not in self.host_tier:
            self._put_on_host(key, features)

    def reset(self) -> None:
        """Forget every page, and count anew."""
        self.device_tier.clear()
        self.host_tier.clear()
        self.device_hits = self.host_hits = self.misses = self.evictions = 0

    def _put_on_device(self, key: bytes, features: VisualTokens) -> None:
        self.host_tier.discard(key)  # no page is in both tiers
        for evicted_key, evicted in self.device_tier.make_room(len(features.main)):
            self._put_on_host(evicted_key, evicted)
        self.device_tier.store(key, features)

    def _put_on_host(self, key: bytes, features: VisualTokens) -> None:
        if not self.host_tier.has_room_for(len(features.main)):
            self.evictions += 1
            return
        for _ in self.host_tier.make_room(len(features.main)):
            self.evictions += 1
        self.host_tier.store(key, features)


def _copy(source: VisualTokens, target: VisualTokens) -> None:
    for values, place in zip((source.main, *source.deepstack), (target.main, *target.deepstack), strict=True):
        place.copy_(values, non_blocking=True)
