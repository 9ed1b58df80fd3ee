"""Stand-ins for torch.cuda, and for what of torch.Tensor never reaches the dispatcher, on a fake card."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from tests.fake_card.card import FakeCard


class FakeEvent:
    """`torch.cuda.Event`."""

    card: "FakeCard"

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        self._has_timing = enable_timing
        self._position = 0

    def record(self, stream: object = None) -> None:
        self._position = self.card.record()

    def query(self) -> bool:
        return self.card.is_complete(self._position)

    def synchronize(self) -> None:
        self.card.synchronise(self._position, "Event.synchronize")

    def wait(self, stream: object = None) -> None:
        """The stream waits, not the host."""

    def elapsed_time(self, end: "FakeEvent") -> float:
        """Milliseconds, made up."""
        if not (self._has_timing and end._has_timing and end.query()):
            raise RuntimeError("Both events must have been recorded with timing and be complete.")
        return float(end._position - self._position)


class FakeStream:
    """`torch.cuda.Stream`: there is one."""

    card: "FakeCard"

    def synchronize(self) -> None:
        self.card.synchronise(None, "Stream.synchronize")

    def query(self) -> bool:
        return self.card.is_complete()

    def wait_event(self, event: FakeEvent) -> None:
        """The stream waits, not the host."""


class _FakeRuntime:
    """`torch.cuda.cudart()`."""

    def __init__(self, card: "FakeCard") -> None:
        self._card = card

    def cudaHostRegister(self, start: int, size: int, flags: int) -> int:
        self._card.host_memory.register(start, size)
        return 0

    def cudaHostUnregister(self, start: int) -> int:
        self._card.host_memory.unregister(start)
        return 0


class _FakeDevice:
    """`torch.cuda.device`: there is one."""

    def __init__(self, device: object) -> None:
        assert torch.device(device if isinstance(device, str | torch.device) else f"cuda:{device}").index in (0, None)

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Properties:
    name: str
    total_memory: int
    major: int
    minor: int
    multi_processor_count: int = 132


def _check_error(code: int) -> None:
    if code:
        raise RuntimeError(f"CUDA error {code}")


def torch_cuda(card: "FakeCard") -> dict[str, Any]:
    """Functions and classes of torch.cuda by name."""
    runtime = _FakeRuntime(card)
    event = type("FakeEvent", (FakeEvent,), {"card": card})
    stream = type("FakeStream", (FakeStream,), {"card": card})()
    name, (major, minor) = "Fake H100", card.capability
    return {
        "_lazy_init": lambda: None,
        "init": lambda: None,
        "is_available": lambda: True,
        "is_bf16_supported": lambda *_, **__: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "device": _FakeDevice,
        "get_device_name": lambda device=None: name,
        "get_device_capability": lambda device=None: card.capability,
        "get_device_properties": lambda device=None: _Properties(
            name=name, total_memory=card.memory.total_bytes, major=major, minor=minor
        ),
        "Event": event,
        "current_stream": lambda device=None: stream,
        "default_stream": lambda device=None: stream,
        "synchronize": lambda device=None: card.synchronise(None, "torch.cuda.synchronize"),
        "cudart": lambda: runtime,
        "check_error": _check_error,
        "set_sync_debug_mode": lambda mode: None,
        "empty_cache": lambda: None,
        "mem_get_info": lambda device=None: (card.memory.total_bytes - card.live_bytes, card.memory.total_bytes),
        "memory_allocated": lambda device=None: card.live_bytes,
        "memory_reserved": lambda device=None: card.live_bytes,
        "max_memory_allocated": lambda device=None: card.peak_bytes,
        "reset_peak_memory_stats": lambda device=None: card.reset_peak(),
    }


def tensor_methods(card: "FakeCard") -> dict[str, Callable[..., Any]]:
    """Methods that a torch built without CUDA refuses before they are dispatched, and reading, which never is."""
    get, put, copy = torch.Tensor.__getitem__, torch.Tensor.__setitem__, torch.Tensor.copy_
    as_contiguous, move = torch.Tensor.contiguous, torch.Tensor.to

    def getitem(tensor: torch.Tensor, index: Any) -> Any:
        if not isinstance(tensor, FakeTensor):
            return get(tensor, index)
        view, indices = _split_index(tensor, index)
        return torch.ops.aten.index.Tensor(view, indices) if any(x is not None for x in indices) else view

    def setitem(tensor: torch.Tensor, index: Any, value: Any) -> None:
        if not isinstance(tensor, FakeTensor):
            return put(tensor, index, value)
        view, indices = _split_index(tensor, index)
        is_advanced = any(x is not None for x in indices)
        if not isinstance(value, torch.Tensor):
            value = torch.full((), value, dtype=tensor.dtype, device=tensor.device)
        torch.ops.aten.index_put_.default(view, indices, value) if is_advanced else view.copy_(value)

    def copy_(tensor: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        if not isinstance(tensor, FakeTensor):
            return copy(tensor, source, non_blocking)
        copied: torch.Tensor = torch.ops.aten.copy_.default(tensor, source, non_blocking)
        return copied

    def contiguous(tensor: torch.Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
        if not isinstance(tensor, FakeTensor) or tensor.is_contiguous(memory_format=memory_format):
            return as_contiguous(tensor, memory_format=memory_format)
        return tensor.clone(memory_format=memory_format)

    def to(tensor: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
        arguments = tuple(_with_index(value) for value in arguments)
        return move(tensor, *arguments, **{name: _with_index(value) for name, value in keywords.items()})

    def reading(name: str) -> Callable[..., Any]:
        method = getattr(torch.Tensor, name)

        def read(tensor: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
            if isinstance(tensor, FakeTensor):
                card.fault("The host reads values, for which it waits for the device.", name)
            card.host_memory.check_access(tensor, is_written=False, name=name)
            return method(tensor, *arguments, **keywords)

        return read

    return {
        "__getitem__": getitem,
        "__setitem__": setitem,
        "copy_": copy_,
        "contiguous": contiguous,
        "to": to,
        "cuda": lambda tensor, **keywords: to(tensor, "cuda", **keywords),
        **{name: reading(name) for name in _READING},
    }


OPERATORS = ("__getitem__", "__setitem__", "__bool__", "__float__", "__index__", "__int__")
"""Methods that Python calls through slots of the type."""


class TensorOperators(TorchFunctionMode):
    """Puts functions in the place of operators of tensors.

    Not by attributes of torch.Tensor: taking `__getitem__` off it again leaves the type a slot that makes every tensor look
    like a sequence, a scalar too, for the rest of the process.
    """

    def __init__(self, stand_ins: dict[str, Callable[..., Any]]) -> None:
        super().__init__()
        self._stand_ins = stand_ins

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        run = self._stand_ins.get(getattr(function, "__name__", ""), function)
        return run(*arguments, **(keywords or {}))


_READING = ("item", "tolist", "numpy", "nonzero", "__array__", "__bool__", "__float__", "__index__", "__int__")


def _with_index(value: Any) -> Any:
    """`cuda` as the one card that there is; other values as they are."""
    is_card = str(value) == "cuda" and isinstance(value, str | torch.device)
    return torch.device("cuda", 0) if is_card else value


def _split_index(tensor: torch.Tensor, index: Any) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """The view that slices, numbers and None make of the tensor, and an index or None for each of its dimensions."""
    items = list(index) if isinstance(index, tuple) else [index]
    if any(item is Ellipsis for item in items):
        [position] = [position for position, item in enumerate(items) if item is Ellipsis]
        missing = tensor.dim() - sum(item is not None for item in items) + 1
        items[position : position + 1] = [slice(None)] * missing
    indices: list[torch.Tensor | None] = []
    for item in items:
        if isinstance(item, int) and not isinstance(item, bool):
            tensor = tensor.select(len(indices), item)
        elif isinstance(item, slice):
            tensor = torch.ops.aten.slice.Tensor(tensor, len(indices), item.start, item.stop, item.step or 1)
            indices.append(None)
        elif item is None:
            tensor = tensor.unsqueeze(len(indices))
            indices.append(None)
        else:
            indices.append(torch.as_tensor(item))
    return tensor, indices
