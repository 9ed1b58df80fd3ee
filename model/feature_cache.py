"""A cache of page features by content hash, so that the vision tower encodes a page once for all queries.

It has two tiers: one in device memory, and one in host memory (pinned with CUDA) for pages that are evicted from the first or
too large for it. Each tier is one block, allocated at the start, so it never grows. Eviction is least recently used first.
Features are stored bit for bit. A cache belongs to one set of weights and to the one thread that scores: copies are ordered by
the device's stream, and no method waits for them.
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
    """The features of one visual token: the main one, and one for each DeepStack level."""

    levels: int  # 1 + DeepStack levels
    width: int  # D
    dtype: torch.dtype

    @property
    def token_bytes(self) -> int:
        return self.levels * self.width * self.dtype.itemsize

    def places_in(self, byte_count: int) -> tuple[int, int]:
        """Shape (tokens, levels * width) of the largest block with at most that many bytes."""
        return byte_count // self.token_bytes, self.levels * self.width


class Arena:
    """Allocates contiguous ranges of `size` places, first fit, and merges adjacent free ranges."""

    def __init__(self, size: int) -> None:
        self._free = [(0, size)] if size else []  # (start, size), ascending, never adjacent

    def take(self, size: int) -> int | None:
        """Allocate a range; its first place, or None if no free range is large enough."""
        for index, (start, available) in enumerate(self._free):
            if available >= size:
                self._free[index : index + 1] = [(start + size, available - size)] if available > size else []
                return start
        return None

    def give_back(self, start: int, size: int) -> None:
        """Free a range that `take` allocated."""
        insort(self._free, (start, size))
        index = self._free.index((start, size))
        for left in (index, index - 1):  # the right neighbour first: merging it does not shift the left one's index
            if 0 <= left < len(self._free) - 1 and sum(self._free[left]) == self._free[left + 1][0]:
                joined = (self._free[left][0], self._free[left][1] + self._free[left + 1][1])
                self._free[left : left + 2] = [joined]


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredPage:
    """A page in a tier."""

    start: int  # row of the first token
    features: VisualTokens  # views of the tier's memory, main and DeepStack each (tokens, D)

    @property
    def token_count(self) -> int:
        return len(self.features.main)


class CacheTier:
    """One block of memory with whole pages in contiguous ranges, in order of use."""

    def __init__(self, memory: torch.Tensor, shape: FeatureShape) -> None:
        """memory: (tokens, levels * width)."""
        self._shape = shape
        self._memory = memory
        self._capacity = len(memory)
        self._arena = Arena(self._capacity)
        self._pages: OrderedDict[bytes, _StoredPage] = OrderedDict()  # most recently used last
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
        """Whether a page of that many tokens fits into the empty tier."""
        return token_count <= self._capacity

    def find(self, key: bytes) -> VisualTokens | None:
        """The features as views that stay valid until the next `store`; None if the page is not stored."""
        page = self._pages.get(key)
        if page is None:
            return None
        self._pages.move_to_end(key)
        return page.features

    def make_room(self, token_count: int) -> Iterator[tuple[bytes, VisualTokens]]:
        """Evict the least recently used pages until one of that size fits. Each is yielded while it is still readable."""
        while (start := self._arena.take(token_count)) is None:
            key, page = self._pages.popitem(last=False)
            yield key, page.features
            self._release(page)
        self._arena.give_back(start, token_count)

    def store(self, key: bytes, features: VisualTokens) -> None:
        """Copy a page in, as the most recently used. Call `make_room` for it first."""
        token_count = len(features.main)
        start = self._arena.take(token_count)
        assert start is not None, "make_room was not called"
        page = _StoredPage(start=start, features=self._views(start, token_count))
        places = page.features.main, *page.features.deepstack
        for place, values in zip(places, (features.main, *features.deepstack), strict=True):
            place.copy_(values, non_blocking=True)  # (tokens, D)
        self._pages[key] = page
        self._token_count += token_count

    def discard(self, key: bytes) -> None:
        """Remove a page if it is stored."""
        if page := self._pages.pop(key, None):
            self._release(page)

    def clear(self) -> None:
        """Remove every page."""
        for key in list(self._pages):
            self.discard(key)

    def _release(self, page: _StoredPage) -> None:
        self._arena.give_back(page.start, page.token_count)
        self._token_count -= page.token_count

    def _views(self, start: int, token_count: int) -> VisualTokens:
        """The range as one contiguous block for each level."""
        rows = self._memory[start : start + token_count]  # (tokens, levels * D)
        main, *deepstack = rows.view(self._shape.levels, token_count, self._shape.width).unbind()  # each (tokens, D)
        return VisualTokens(main=main, deepstack=tuple(deepstack))


class FeatureCache:
    """Both tiers together. A page is in at most one of them.

    `get` moves no page, so the features it returns stay valid until the next `put`. After reading a batch, `put` the pages that
    were found in host memory, to move them to the device. Pass copies to `put`, never the views that `get` returned.
    """

    def __init__(self, shape: FeatureShape, *, device: torch.device, device_bytes: int, host_bytes: int) -> None:
        """Raises: ConfigurationError if the memory cannot be allocated."""
        self._device = device
        self.device_tier = CacheTier(device_block(shape.places_in(device_bytes), shape.dtype, device), shape)
        self.host_tier = CacheTier(host_block(shape.places_in(host_bytes), shape.dtype, device), shape)
        self.device_hits = 0
        self.host_hits = 0
        self.misses = 0
        self.evictions = 0  # pages removed from both tiers

    @property
    def hits(self) -> int:
        return self.device_hits + self.host_hits

    @property
    def byte_count(self) -> int:
        """Bytes that hold features, in both tiers."""
        return self.device_tier.byte_count + self.host_tier.byte_count

    @property
    def byte_limit(self) -> int:
        """Bytes allocated for both tiers."""
        return self.device_tier.byte_limit + self.host_tier.byte_limit

    @property
    def is_on(self) -> bool:
        return self.byte_limit > 0

    def __contains__(self, key: bytes) -> bool:
        return key in self.device_tier or key in self.host_tier

    def get(self, key: bytes) -> VisualTokens | None:
        """A page's features on the device, or None. Counts a hit or a miss."""
        if (found := self.device_tier.find(key)) is not None:
            self.device_hits += 1
            return found
        if (found := self.host_tier.find(key)) is not None:
            self.host_hits += 1
            return found.to(self._device)
        self.misses += 1
        return None

    def put(self, key: bytes, features: VisualTokens) -> None:
        """Store a copy, on the device if it fits there. Does nothing for a page that is on the device already."""
        if key in self.device_tier:
            return
        if self.device_tier.has_room_for(len(features.main)):
            self.host_tier.discard(key)
            for evicted_key, evicted in self.device_tier.make_room(len(features.main)):
                self._put_on_host(evicted_key, evicted)
            self.device_tier.store(key, features)
        elif self.is_on and key not in self.host_tier:
            self._put_on_host(key, features)

    def reset(self) -> None:
        """Remove every page and set all counts to 0."""
        self.device_tier.clear()
        self.host_tier.clear()
        self.device_hits = self.host_hits = self.misses = self.evictions = 0

    def _put_on_host(self, key: bytes, features: VisualTokens) -> None:
        if not self.host_tier.has_room_for(len(features.main)):
            self.evictions += 1
            return
        for _ in self.host_tier.make_room(len(features.main)):
            self.evictions += 1
        self.host_tier.store(key, features)
