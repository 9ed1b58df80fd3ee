"""Pinned host memory beside a fake card, and the copies that still read or write it. Addresses are real."""

import ctypes
import weakref
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tests.fake_card.faults import place


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Pinned bytes."""

    end: int
    is_registered: bool  # by the product, with cudaHostRegister; else of torch's pinned allocator


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    """An asynchronous copy between pinned memory and the device."""

    position: int  # in the stream
    start: int
    end: int
    to_device: bool
    checksum: int | None  # of the bytes that the device will read
    memory: object  # kept until the copy is complete, as torch's allocator does; None for registered memory
    place: str

    def overlaps(self, start: int, end: int) -> bool:
        return self.start < end and start < self.end


class HostMemory:
    """`fault(sentence, operation)` raises CardFault; `report(fault)` keeps it."""

    def __init__(self, fault: Callable[[str, str], None], report: Callable[[str], None]) -> None:
        self._fault = fault
        self._report = report
        self._blocks: dict[int, _Block] = {}  # by the first address
        self._copies: list[_Copy] = []  # not known to be complete

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same tensor, its memory from now on held to be of torch's pinned allocator."""
        storage = tensor.untyped_storage()
        start = storage.data_ptr()
        self._blocks[start] = _Block(end=start + storage.nbytes(), is_registered=False)
        weakref.finalize(storage, self._blocks.pop, start, None)
        return tensor

    def register(self, start: int, size: int) -> None:
        """`cudaHostRegister`."""
        self._blocks[start] = _Block(end=start + size, is_registered=True)

    def unregister(self, start: int) -> None:
        """`cudaHostUnregister`. Runs while memory is collected, where nothing can be raised."""
        end = self._blocks.pop(start).end
        for copy in [copy for copy in self._copies if copy.overlaps(start, end)]:
            self._copies.remove(copy)
            self._report(f"Registered memory is freed before a copy is complete that began at {copy.place}.")

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        return self._find_block(tensor) is not None

    def is_registered(self, tensor: torch.Tensor) -> bool:
        block = self._find_block(tensor)
        return block is not None and block.is_registered

    def _find_block(self, tensor: torch.Tensor) -> _Block | None:
        start, end = _addresses(tensor)
        blocks = (block for first, block in self._blocks.items() if first <= start and end <= block.end)
        return next(blocks, None) if end > start else None

    def begin_copy(self, tensor: torch.Tensor, position: int, *, to_device: bool) -> None:
        """A copy of pinned bytes is queued at that place in the stream."""
        start, end = _addresses(tensor)
        if not to_device:  # copies from here that are ahead in the stream will have read these bytes before
            self._copies = [copy for copy in self._copies if not copy.overlaps(start, end)]
        self._copies.append(
            _Copy(
                position=position,
                start=start,
                end=end,
                to_device=to_device,
                checksum=_checksum(start, end) if to_device else None,
                memory=None if self.is_registered(tensor) else tensor.untyped_storage(),
                place=place(),
            )
        )

    def check_access(self, tensor: torch.Tensor, *, is_written: bool, name: str) -> None:
        """Raises CardFault where a copy of the same bytes is not known to be complete."""
        if not self._copies:
            return
        start, end = _addresses(tensor)
        for copy in self._copies:
            if copy.overlaps(start, end) and (is_written or not copy.to_device):
                done = "written" if is_written else "read"
                self._fault(f"A pinned buffer is {done} before a copy is complete that began at {copy.place}.", name)

    def complete(self, position: int) -> None:
        """The stream has got there. Raises CardFault where bytes are others than when their copy was queued."""
        done = [copy for copy in self._copies if copy.position <= position]
        self._copies = [copy for copy in self._copies if copy.position > position]
        for copy in done:
            if copy.checksum is not None and copy.checksum != _checksum(copy.start, copy.end):
                self._fault(f"A pinned buffer changed before a copy was complete that began at {copy.place}.", "copy")


def _addresses(tensor: torch.Tensor) -> tuple[int, int]:
    """Of the first byte and of the one behind the last; 0 and 0 where there are none."""
    if tensor.numel() == 0 or tensor.device.type != "cpu":
        return 0, 0
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (reach + 1) * tensor.element_size()


def _checksum(start: int, end: int) -> int:
    return zlib.crc32((ctypes.c_char * (end - start)).from_address(start))
