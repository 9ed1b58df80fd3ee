"""A card that needs no hardware: the product's CUDA path runs on tensors without values, and every operation is watched.

    with FakeCard() as card:
        reranker = Reranker.assemble(...)          # device cuda:0
        pending = reranker.start(requests)
        answers = pending.wait()
    assert card.downloads == 1
    card.peak_bytes                                # of device memory

Host tensors are real, with real values. Tensors on cuda:0 are torch's FakeTensors: they have a shape, a dtype, strides and a
storage, and no values, so that scores are zeros. The card sees every operation of the thread that entered it, after torch has
taken composite ones apart. An operation that a card would punish raises `CardFault` and is kept in `card.faults`:

- a host tensor in a device operation (scalars excepted), and a host tensor as an index into a device tensor;
- waiting for the device: a value that the host reads, a shape that depends on values, a copy that blocks;
- a host buffer that is rewritten, or read, before the copy from or into it is known to be complete;
- a matrix product in another dtype than the tower's (`_check_product` states the rule), and whatever a kernel refuses.

`with card.waiting_allowed():` is for loading weights. Bytes are counted as torch's allocator counts them: by storage, rounded
up to 512. Memory inside a kernel (workspaces of cuBLAS and sort) and the allocator's gaps are not.
"""

import sys
import weakref
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any, Self
from unittest import mock

import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.fake_cuda import tensor_methods, torch_cuda
from tests.fake_kernels import kernel_modules, rms_norm, scaled_dot_product_attention

DEVICE = torch.device("cuda", 0)
ALLOCATION_UNIT = 512
EIGHT_BIT = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)
FLOAT32_PRODUCTS = frozenset({"text_similarity", "score_letters"})
"""Functions of the product that multiply matrices in float32 on purpose: the compressor's cosines and the letters' logits."""

_PRODUCT_OPERANDS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1, "addbmm": 1, "addmv": 1, "mv": 0, "convolution": 0}
"""Where the first of the two factors stands among the arguments."""

_WAITING = ("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim")
_INDEXING = (
    "index",
    "index_put",
    "index_put_",
    "_unsafe_index",
    "index_select",
    "index_add",
    "index_add_",
    "index_copy_",
)
_INDEXING += ("gather", "scatter", "scatter_", "embedding", "take", "index_fill_")


class CardFault(AssertionError):
    """What a card would have punished, with the operation and the line of the product."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Transfer:
    """An asynchronous copy between pinned memory and the device, by host addresses."""

    position: int  # in the stream
    start: int
    end: int
    to_device: bool
    checksum: int | None  # of the bytes that the device will read
    memory: object  # what torch's pinned allocator keeps until the copy is complete; None for registered memory
    place: str

    def overlaps(self, start: int, end: int) -> bool:
        return self.start < end and start < self.end


class FakeCard:
    """Enter it once. Its counters may be read at any time."""

    def __init__(
        self,
        *,
        tower_dtype: torch.dtype = torch.bfloat16,
        varlen: str | None = "2.13",
        flash_attention: int | None = None,
        capability: tuple[int, int] = (9, 0),
        total_bytes: int = 80 * 2**30,
        float32_products: frozenset[str] = FLOAT32_PRODUCTS,
    ) -> None:
        """varlen: the torch version whose `varlen_attn` there is, 2.11 or 2.13, None for none.

        flash_attention: the generation that is installed, 2 or 3, None for none.
        """
        self.faults: list[str] = []
        self.waits: list[str] = []  # synchronisations that the product asked for, with their places
        self.uploads = 0
        self.downloads = 0  # copies into memory of torch's pinned allocator
        self.copies_to_host_tier = 0  # copies into memory that the product has registered itself
        self.kernel_calls: Counter[str] = Counter()
        self.live_bytes = 0
        self.peak_bytes = 0
        self.tower_dtype = tower_dtype
        self.capability = capability
        self.total_bytes = total_bytes
        self.float32_products = float32_products
        self._modules = kernel_modules(self, varlen, flash_attention)
        self._live: dict[int, tuple[weakref.ref[Any], int]] = {}  # by the storage's address
        self._pinned: dict[int, tuple[int, bool]] = {}  # start to (end, whether the product registered it)
        self._transfers: list[_Transfer] = []
        self._queued = 0  # places in the one stream
        self._completed = 0
        self._is_strict = True
        self._has_dtype_rule = True
        self._stack = ExitStack()
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)

    def __enter__(self) -> Self:
        _forget_what_the_product_caches()
        enter = self._stack.enter_context
        enter(self._mode)
        enter(_Watch(self))
        enter(mock.patch.object(fake_tensor, "init_gpu_context", lambda *_: None, create=True))
        enter(mock.patch.dict(sys.modules, self._modules))
        for name, function in torch_cuda(self).items():
            enter(mock.patch.object(torch.cuda, name, function))
        for name, function in tensor_methods(self).items():
            enter(mock.patch.object(torch.Tensor, name, function))
        functional = torch.nn.functional
        for wrapped in (scaled_dot_product_attention, rms_norm):
            stand_in = wrapped(self, getattr(functional, wrapped.__name__))
            enter(mock.patch.object(functional, wrapped.__name__, stand_in))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        _forget_what_the_product_caches()
        if exception[0] is None:
            self.complete(self._queued)

    def reset_peak(self) -> None:
        self.peak_bytes = self.live_bytes

    @contextmanager
    def waiting_allowed(self) -> Iterator[None]:
        """Nothing that waits for the device is a fault inside: for loading weights."""
        was_strict, self._is_strict = self._is_strict, False
        try:
            yield
        finally:
            self._is_strict = was_strict

    # Faults.

    def fault(self, sentence: str, operation: str) -> None:
        """Keep it and raise CardFault."""
        self.faults.append(f"{sentence} ({operation}, {_place()})")
        raise CardFault(self.faults[-1])

    def _waits(self, sentence: str, operation: str) -> None:
        if self._is_strict:
            self.fault(sentence, operation)

    def check(self, function: Any, arguments: Sequence[Any], tensors: Sequence[torch.Tensor]) -> None:
        """The rules for one device operation that is no copy. Raises CardFault."""
        name = function.overloadpacket.__name__
        indices = (
            [index for index in arguments[1] if index is not None]
            if name.startswith("index") and name in ("index", "index_put", "index_put_")
            else []
        )
        is_masked = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
        if is_masked and not (name.startswith("index_put") and arguments[2].numel() == 1):
            self._waits("A boolean mask is an index: the device is waited for to know the shape.", name)
        if name in _WAITING or torch.Tag.data_dependent_output in function.tags:
            self.fault("The host reads a value, for which it waits for the device.", name)
        if torch.Tag.dynamic_output_shape in function.tags and name != "index":
            self.fault("The shape depends on values, for which the host waits for the device.", name)
        for tensor in tensors:
            if isinstance(tensor, FakeTensor):
                continue
            if name in _INDEXING:
                self._waits(f"A host tensor {tuple(tensor.shape)} is an index or value of a device tensor.", name)
            elif tensor.dim() > 0:
                self.fault(f"A host tensor {tuple(tensor.shape)} is mixed with device tensors.", name)
        if name in _PRODUCT_OPERANDS:
            self._check_product(name, arguments[_PRODUCT_OPERANDS[name] :][:2])

    def _check_product(self, name: str, factors: Sequence[torch.Tensor]) -> None:
        """Both factors of every matrix product have the tower's dtype or 8 bits.

        Excepted are the functions named in `float32_products`: those that themselves call torch, not what they call.
        """
        dtypes = [factor.dtype for factor in factors]
        if not self._has_dtype_rule or all(dtype in (self.tower_dtype, *EIGHT_BIT) for dtype in dtypes):
            return
        frame = _product_frame()
        if frame is None or frame.f_code.co_name not in self.float32_products:
            self.fault(f"A matrix product of {dtypes[0]} and {dtypes[1]} in a tower of {self.tower_dtype}.", name)

    @contextmanager
    def any_product(self) -> Iterator[None]:
        """Inside, matrix products may have any dtype: those of a kernel of torch."""
        dtype_rule, self._has_dtype_rule = self._has_dtype_rule, False
        try:
            yield
        finally:
            self._has_dtype_rule = dtype_rule

    # Memory of the device.

    def count(self, outputs: Any) -> None:
        """Count the storages of an operation's results that are new. Raises OutOfMemoryError as torch's allocator does."""
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, FakeTensor) and tensor.fake_device.type == "cuda":
                self._count_storage(tensor.untyped_storage())
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        if self.live_bytes > self.total_bytes:
            raise torch.OutOfMemoryError(f"{self.live_bytes} bytes are held on a card of {self.total_bytes}")

    def _count_storage(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        size = -(-int(storage.nbytes()) // ALLOCATION_UNIT) * ALLOCATION_UNIT
        reference, counted = self._live.get(address, (None, 0))
        if reference is None:
            reference = weakref.ref(storage, lambda _: self._release(address))
        self._live[address] = (reference, size)
        self.live_bytes += size - counted

    def _release(self, address: int) -> None:
        self.live_bytes -= self._live.pop(address)[1]

    # Pinned memory of the host and the copies from and to it.

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """Real host memory, from now on held to be of torch's pinned allocator, until it is collected."""
        start = tensor.untyped_storage().data_ptr()
        self._pinned[start] = (start + tensor.untyped_storage().nbytes(), False)
        weakref.finalize(tensor.untyped_storage(), self._pinned.pop, start, None)
        return tensor

    def register(self, start: int, size: int) -> None:
        """`cudaHostRegister`."""
        self._pinned[start] = (start + size, True)

    def unregister(self, start: int) -> None:
        """`cudaHostUnregister`, which runs when the memory is collected: a fault is kept and not raised."""
        end, _ = self._pinned.pop(start, (start, True))
        if busy := [transfer for transfer in self._transfers if transfer.overlaps(start, end)]:
            self.faults.append(f"Registered memory is freed before a copy is complete (copy, {busy[0].place})")

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        return self._pinned_block(tensor) is not None

    def _pinned_block(self, tensor: torch.Tensor) -> tuple[int, bool] | None:
        start, end = _addresses(tensor)
        blocks = (block for first, block in self._pinned.items() if first <= start and end <= block[0])
        return next(blocks, None) if end > start else (end, False)

    def upload(self, source: torch.Tensor, target: torch.Tensor, non_blocking: bool, name: str) -> None:
        """A copy from host memory. source: real; target: on the card."""
        self.uploads += 1
        self._copy(source, target, non_blocking, name, to_device=True)

    def download(self, source: torch.Tensor, target: torch.Tensor, non_blocking: bool, name: str) -> None:
        """A copy into host memory. source: on the card; target: real, and zeros from now on."""
        block = self._pinned_block(target)
        if block is not None and block[1]:
            self.copies_to_host_tier += 1
        else:
            self.downloads += 1
        self._copy(target, source, non_blocking, name, to_device=False)
        with unset_fake_temporarily(), torch.inference_mode():
            target.zero_()

    def _copy(
        self, host: torch.Tensor, device: torch.Tensor, non_blocking: bool, name: str, *, to_device: bool
    ) -> None:
        block, way = self._pinned_block(host), "to the device" if to_device else "to the host"
        if block is None:
            self._waits(f"A copy {way} goes through pageable memory, so the host waits.", name)
        elif not non_blocking:
            self._waits(f"A copy {way} is blocking.", name)
        elif host.dtype != device.dtype or not _lie_alike(host, device):
            self._waits(f"A copy {way} changes dtype or layout, so it goes through pageable memory.", name)
        elif host.numel():
            self._queue_transfer(host, to_device, is_registered=block[1])

    def _queue_transfer(self, host: torch.Tensor, to_device: bool, *, is_registered: bool) -> None:
        start, end = _addresses(host)
        self._queued += 1
        if not to_device:  # behind the copies from here, in the same stream: those have read by then
            self._transfers = [transfer for transfer in self._transfers if not transfer.overlaps(start, end)]
        self._transfers.append(
            _Transfer(
                position=self._queued,
                start=start,
                end=end,
                to_device=to_device,
                checksum=_checksum(host) if to_device else None,
                memory=None if is_registered else host.untyped_storage(),
                place=_place(),
            )
        )

    def check_host_access(self, tensor: torch.Tensor, *, is_written: bool, name: str) -> None:
        """Raises CardFault where a copy of the same memory is not known to be complete."""
        if not self._transfers:
            return
        start, end = _addresses(tensor)
        for transfer in self._transfers:
            if transfer.overlaps(start, end) and (is_written or not transfer.to_device):
                done = "written" if is_written else "read"
                self.fault(f"A pinned buffer is {done} before a copy is complete that began at {transfer.place}.", name)

    # The stream.

    def record(self) -> int:
        """The place in the stream behind everything that is queued."""
        self._queued += 1
        return self._queued

    def is_complete(self, position: int) -> bool:
        return position <= self._completed

    def synchronise(self, position: int | None, name: str) -> None:
        """The host waits until the stream has got there, None for its end."""
        self.waits.append(f"{name}, {_place()}")
        self.complete(self._queued if position is None else position)

    def complete(self, position: int) -> None:
        """The device has got there. Raises CardFault where a buffer has other bytes than when its copy was queued."""
        self._completed = max(self._completed, position)
        done = [transfer for transfer in self._transfers if transfer.position <= self._completed]
        self._transfers = [transfer for transfer in self._transfers if transfer.position > self._completed]
        for transfer in done:
            if transfer.checksum is not None and transfer.checksum != _checksum_at(transfer.start, transfer.end):
                self.fault(
                    f"A pinned buffer changed before the copy was complete that began at {transfer.place}.", "copy"
                )


class _Watch(TorchDispatchMode):
    """Host operations run on real tensors; device operations are checked, run on FakeTensors and counted."""

    def __init__(self, card: FakeCard) -> None:
        super().__init__()
        self.card = card

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        leaves = tree_leaves((arguments, keywords))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        is_on_card = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        if function.namespace == "prim":
            return function(*arguments, **keywords)
        if not is_on_card and not any(isinstance(leaf, torch.device) and leaf.type == "cuda" for leaf in leaves):
            return self._on_host(function, arguments, keywords, tensors)
        if _can_be_decomposed(function):
            with self:
                return function.decompose(*arguments, **keywords)
        name = function.overloadpacket.__name__
        if name in ("copy_", "_to_copy"):
            return self._copy(function, name, arguments, keywords)
        if name == "is_pinned":
            return False
        if is_on_card:
            self.card.check(function, arguments, tensors)
            arguments, keywords = _with_indices_on_card(name, arguments, keywords)
        return self._on_card(function, arguments, keywords)

    def _on_card(self, function: Any, arguments: Any, keywords: Any) -> Any:
        outputs = function(*arguments, **keywords)
        self.card.count(outputs)
        return outputs

    def _on_host(self, function: Any, arguments: Any, keywords: Any, tensors: Sequence[torch.Tensor]) -> Any:
        name = function.overloadpacket.__name__
        if name == "is_pinned":
            return self.card.is_pinned(arguments[0])
        if not function.is_view and tensors:
            self._check_host_accesses(function, name, arguments, keywords)
        if name == "pin_memory" and self.card.is_pinned(arguments[0]):
            return arguments[0]
        with unset_fake_temporarily():
            if name in ("pin_memory", "_pin_memory"):
                return self.card.pin(arguments[0].clone(memory_format=torch.contiguous_format))
            if keywords.get("pin_memory"):
                return self.card.pin(function(*arguments, **{**keywords, "pin_memory": False}))
            return function(*arguments, **keywords)

    def _check_host_accesses(self, function: Any, name: str, arguments: Any, keywords: Any) -> None:
        for index, argument in enumerate(function._schema.arguments):
            value = arguments[index] if index < len(arguments) else keywords.get(argument.name)
            is_written = argument.alias_info is not None and argument.alias_info.is_write
            for tensor in tree_leaves(value):
                if isinstance(tensor, torch.Tensor):
                    self.card.check_host_access(tensor, is_written=is_written, name=name)

    def _copy(self, function: Any, name: str, arguments: Any, keywords: Any) -> Any:
        """`copy_(target, source, non_blocking)` and `_to_copy(source, device=, non_blocking=, …)`, in all directions."""
        if name == "copy_":
            target, source = arguments[0], arguments[1]
            non_blocking = bool(arguments[2] if len(arguments) > 2 else keywords.get("non_blocking", False))
            if isinstance(target, FakeTensor) and isinstance(source, FakeTensor):
                return self._on_card(function, arguments, keywords)
        else:
            source, target = arguments[0], None
            non_blocking = bool(keywords.get("non_blocking", False))
            device = torch.device(keywords.get("device") or source.device)
            if isinstance(source, FakeTensor) and device.type == "cuda":
                return self._on_card(function, arguments, keywords)
            layout = {"size": tuple(source.shape), "stride": _dense_strides(source)}
            layout["dtype"] = keywords.get("dtype") or source.dtype
            target = self._new_target(layout, device, is_pinned=non_blocking or bool(keywords.get("pin_memory")))
        if isinstance(source, FakeTensor):
            self.card.download(source, target, non_blocking, name)
        else:
            self.card.upload(source, target, non_blocking, name)
        return target

    def _new_target(self, layout: dict[str, Any], device: torch.device, *, is_pinned: bool) -> torch.Tensor:
        if device.type == "cuda":
            target = torch.empty_strided(**layout, device=DEVICE)
            self.card.count(target)
            return target
        with unset_fake_temporarily():
            target = torch.empty_strided(**layout)
        return self.card.pin(target) if is_pinned else target


def _with_indices_on_card(name: str, arguments: Any, keywords: Any) -> tuple[Any, Any]:
    """Host indices moved to the card, as indexing does where waiting is allowed."""
    if name not in _INDEXING:
        return arguments, keywords

    def moved(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [moved(item) for item in value]
        if isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor):
            return torch.empty(tuple(value.shape), dtype=value.dtype, device=DEVICE)
        return value

    return tuple(moved(value) for value in arguments), {key: moved(value) for key, value in keywords.items()}


@lru_cache
def _can_be_decomposed(function: Any) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd"))


def _forget_what_the_product_caches() -> None:
    """What it keeps of kernels and tables between calls, so that no test sees another's stand-ins."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "model":
            for value in list(vars(module).values()):
                with suppress(AttributeError):
                    value.cache_clear()


# Host memory by address.


def _addresses(tensor: torch.Tensor) -> tuple[int, int]:
    """From the first to behind the last byte. Both 0 where there are none."""
    if tensor.numel() == 0 or tensor.device.type != "cpu":
        return 0, 0
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (reach + 1) * tensor.element_size()


def _checksum(tensor: torch.Tensor) -> int:
    return _checksum_at(*_addresses(tensor))


def _checksum_at(start: int, end: int) -> int:
    import ctypes

    return zlib.crc32((ctypes.c_char * (end - start)).from_address(start))


def _dense_strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """Strides of a copy: the same where the tensor has no gaps, else those of a contiguous one."""
    with unset_fake_temporarily():
        return torch.empty_like(tensor, device="meta").stride()


def _lie_alike(host: torch.Tensor, device: torch.Tensor) -> bool:
    """Whether one copy of consecutive bytes does it."""
    return host.stride() == device.stride() or (host.is_contiguous() and device.is_contiguous())


# Places in the product.

_TORCH = str(Path(torch.__file__).parent)
_OWN = tuple(str(Path(__file__).with_name(name)) for name in ("fake_card.py", "fake_cuda.py", "fake_kernels.py"))


def _product_frame() -> FrameType | None:
    """The innermost frame that is neither torch's nor the card's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and (frame.f_code.co_filename in _OWN or frame.f_code.co_filename.startswith(_TORCH)):
        frame = frame.f_back
    return frame


def _place() -> str:
    frame = _product_frame()
    if frame is None:
        return "nowhere"
    path = Path(frame.f_code.co_filename)
    return f"{path.parent.name}/{path.name}:{frame.f_lineno} in {frame.f_code.co_name}"
