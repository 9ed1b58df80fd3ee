"""Memory of a fake card: the bytes of living storages, as torch's caching allocator counts what is allocated."""

import weakref
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves

UNIT = 512
"""Sizes are rounded up to it."""


class DeviceMemory:
    """Views share a storage; a storage counts from the operation that returned it until it is collected."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.live_bytes = 0
        self.peak_bytes = 0
        self._storages: dict[int, tuple[weakref.ref[Any], int]] = {}  # by address: for its end, and its bytes

    def count(self, outputs: Any) -> None:
        """Count the new storages among an operation's results. Raises: torch.OutOfMemoryError."""
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, FakeTensor) and tensor.fake_device.type == "cuda":
                self._count(tensor.untyped_storage())
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        if self.live_bytes > self.total_bytes:
            raise torch.OutOfMemoryError(f"{self.live_bytes} bytes are held on a card of {self.total_bytes}.")

    def reset_peak(self) -> None:
        self.peak_bytes = self.live_bytes

    def _count(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        size = -(-int(storage.nbytes()) // UNIT) * UNIT
        reference, counted = self._storages.get(address, (None, 0))
        reference = reference or weakref.ref(storage, lambda _: self._release(address))
        self._storages[address] = (reference, size)
        self.live_bytes += size - counted

    def _release(self, address: int) -> None:
        self.live_bytes -= self._storages.pop(address)[1]
