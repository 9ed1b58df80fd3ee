"""The choice of device and dtype, and all operations that differ by device: copies, memory, faults, clocks.

Independent of the model. Other modules call these operations instead of testing for CUDA where they can.
"""

import math
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch

from model.cards import card_without_cuda
from model.errors import ConfigurationError, DeviceError, DeviceLostError, DeviceMemoryError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_CUDA_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
_LIBRARY_OUT_OF_MEMORY = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """The device and dtype of every weight and activation."""

    device: torch.device
    dtype: torch.dtype
    reason: str  # for the log and /info
    unused_card: str | None = None  # why `auto` chose the CPU although the machine has a card

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def description(self) -> str:
        """The card's name, or `cpu`."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"


def choose_compute(device: str, dtype: str) -> Compute:
    """Resolve `auto`. Raises: ConfigurationError for an unknown name or a missing device."""
    chosen_device, device_reason = _choose_device(device)
    unused_card = card_without_cuda() if device == "auto" and chosen_device.type == "cpu" else None
    chosen_dtype, dtype_reason = _choose_dtype(dtype, chosen_device)
    reason = "; ".join(part for part in (device_reason, unused_card, dtype_reason) if part)
    return Compute(device=chosen_device, dtype=chosen_dtype, reason=reason, unused_card=unused_card)


def _choose_device(name: str) -> tuple[torch.device, str]:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0), "device cuda:0, the first card"
        return torch.device("cpu"), "device cpu, no CUDA device is visible"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigurationError(f"device is {name!r}; it must be auto, cpu, cuda or cuda:N.") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigurationError(f"device is {name!r}; it must be auto, cpu, cuda or cuda:N.")
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device.index >= count:
            obstacle = f" ({card_without_cuda()})" if count == 0 and card_without_cuda() else ""
            raise ConfigurationError(
                f"device is {name!r}, but {count} CUDA devices are visible{obstacle}. Choose cpu, auto or a visible device."
            )
    return device, f"device {device}, as asked"


def _choose_dtype(name: str, device: torch.device) -> tuple[torch.dtype, str]:
    if name == "auto":
        if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
            return torch.float16, "dtype float16, the card has no bfloat16 (it needs compute capability 8.0)"
        if device.type == "cuda":
            return torch.bfloat16, "dtype bfloat16, the published checkpoint's"
        return torch.float32, "dtype float32, the fastest and most exact on a CPU"
    if name not in DTYPES:
        raise ConfigurationError(f"dtype is {name!r}; it must be auto, {', '.join(DTYPES)}.")
    return DTYPES[name], f"dtype {name}, as asked"


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a host tensor to `device` without waiting for it (through pinned memory on CUDA)."""
    if device.type == "cpu":
        return tensor
    if not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def staged(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy of a host tensor in page-locked memory, which `upload` can send directly; on a CPU the tensor itself.

    Thread-safe.
    """
    if device.type == "cpu":
        return tensor
    with torch.cuda.device(device):  # else torch would create a context on the first card
        return tensor.pin_memory()


def device_block(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Uninitialised memory on `device` for the feature cache. Raises: ConfigurationError if it cannot be allocated."""
    try:
        return torch.empty(shape, dtype=dtype, device=device)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        raise _cache_too_large(shape, dtype, str(device), setting="feature_cache_gpu_bytes") from error


def host_block(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Uninitialised host memory for the feature cache, page-locked on CUDA, so that copies are asynchronous.

    It is registered with CUDA by hand, because torch's pinned allocator rounds up to a power of two.
    Raises: ConfigurationError if it cannot be allocated.
    """
    try:
        block = torch.empty(shape, dtype=dtype)
        if device.type == "cuda" and block.numel():
            _pin(block)
    except RuntimeError as error:
        raise _cache_too_large(shape, dtype, "the host", setting="feature_cache_host_bytes") from error
    return block


def _pin(block: torch.Tensor) -> None:
    """Register the block with CUDA as page-locked until it is garbage-collected. Raises: RuntimeError."""
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    torch.cuda.check_error(runtime.cudaHostRegister(block.data_ptr(), block.nbytes, 0))
    weakref.finalize(block, runtime.cudaHostUnregister, block.data_ptr())


def _cache_too_large(shape: tuple[int, ...], dtype: torch.dtype, place: str, *, setting: str) -> ConfigurationError:
    size = math.prod(shape) * dtype.itemsize
    return ConfigurationError(
        f"Cannot allocate {size} bytes for the feature cache on {place}. Lower {setting}, or set it to 0 to turn the tier off."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """An asynchronous copy of a tensor to the host."""

    tensor: torch.Tensor  # on the host; complete once `is_complete`
    arrival: "torch.cuda.Event | None"  # None on a CPU, where the tensor is complete already

    @property
    def is_complete(self) -> bool:
        """Whether `wait` would return immediately."""
        return self.arrival is None or bool(self.arrival.query())  # type: ignore[no-untyped-call]

    def wait(self) -> torch.Tensor:
        """Wait for the copy and return the tensor."""
        if self.arrival is not None:
            self.arrival.synchronize()
        return self.tensor


def download(tensor: torch.Tensor) -> Download:
    """Start a copy from the current device to the host, behind all work queued there, and return without waiting."""
    if tensor.device.type == "cpu":
        return Download(tensor=tensor, arrival=None)
    target = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
    arrival = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # blocking: waiting does not occupy a core
    arrival.record()
    return Download(tensor=target, arrival=arrival)


def wait_for(device: torch.device) -> None:
    """Wait for all work queued on the current stream of `device`."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that `work` takes on the otherwise idle device."""
    wait_for(device)
    started = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - started


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceBytes:
    """The memory of a card, in bytes."""

    total: int
    taken: int  # by the CUDA context and by other processes


def device_bytes(device: torch.device) -> DeviceBytes | None:
    """The card's memory, or None on a CPU. Memory that torch holds in this process, for weights, does not count as taken."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return DeviceBytes(total=total, taken=max(0, total - free - torch.cuda.memory_reserved(device)))


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a card; None on a CPU."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free


def give_back_memory(device: torch.device) -> None:
    """Return freed memory from torch's allocator to the card, so that `free_bytes` counts it. Does nothing on a CPU."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.empty_cache()


@contextmanager
def running_on(device: torch.device) -> Iterator[None]:
    """Make `device` the current one and translate its faults. If a batch does not fit, its memory is freed.

    Raises: DeviceMemoryError, DeviceLostError.
    """
    try:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            yield
    except RuntimeError as error:
        failure = _device_failure(error)
        if failure is None:
            raise
        if isinstance(failure, DeviceMemoryError):
            _release_locals(error)
            give_back_memory(device)
        raise failure from error


def _device_failure(error: RuntimeError) -> DeviceError | None:
    """The device failure behind an error of torch, or None if the device is not its cause."""
    is_memory = (
        isinstance(error, torch.OutOfMemoryError)
        or getattr(error, "error_code", None) == _CUDA_OUT_OF_MEMORY
        or any(status in str(error) for status in _LIBRARY_OUT_OF_MEMORY)
    )
    if is_memory:
        return DeviceMemoryError(
            "The batch does not fit into the device's memory. Send fewer pages, or choose a smaller keep_ratio."
        )
    if isinstance(error, torch.AcceleratorError):
        return DeviceLostError(f"The device failed. Restart the process to use it again: {error}")
    return None


def _release_locals(error: BaseException) -> None:
    """Clear the local variables of a traceback's finished frames.

    Otherwise the error would keep the failed batch's tensors alive for as long as it is referenced, through every retry.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__


def memory_bytes(device: torch.device) -> dict[str, int]:
    """Device memory by kind (allocated, reserved, peak); empty on a CPU."""
    if device.type != "cuda":
        return {}
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "peak": torch.cuda.max_memory_allocated(device),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class StageInterval:
    """One run of a stage."""

    stage: str
    started: float  # on the clock of `time.perf_counter`
    seconds: float


class StageClock:
    """Measures stages without synchronising the device: by CUDA events on a card, by wall time on a CPU.

    Enter `with clock.observe("vision"): …` any number of times, and call `seconds()` when the scores are on the host.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []  # not yet read
        self._intervals: list[StageInterval] = []
        self.paused_seconds = 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time inside out of the stage that is being measured. Only on a CPU; not to be nested."""
        started = time.perf_counter()
        yield
        self.paused_seconds += time.perf_counter() - started

    @contextmanager
    def observe(self, stage: str) -> Iterator[None]:
        """Measure the work queued inside as one run of `stage`."""
        if self._device.type == "cuda":
            stream = torch.cuda.current_stream(self._device)
            start, end = _timed_event(), _timed_event()
            start.record(stream)
            yield
            end.record(stream)
            self._events.append((stage, start, end))
            return
        started, paused_before = time.perf_counter(), self.paused_seconds
        yield
        seconds = time.perf_counter() - started - (self.paused_seconds - paused_before)
        self._intervals.append(StageInterval(stage=stage, started=started, seconds=seconds))

    def seconds(self) -> dict[str, float]:
        """Total seconds of each stage. Waits for the end of the last run."""
        seconds: dict[str, float] = {}
        for interval in self.intervals():
            seconds[interval.stage] = seconds.get(interval.stage, 0.0) + interval.seconds
        return seconds

    def intervals(self) -> tuple[StageInterval, ...]:
        """All runs of all stages. Waits for the end of the last run.

        CUDA events have no wall-clock time, so on a card the start times are counted back from the end of that wait.
        """
        if self._events:
            last = self._events[-1][2]
            last.synchronize()
            now = time.perf_counter()
            for stage, start, end in self._events:
                started = now - start.elapsed_time(last) / 1000
                self._intervals.append(
                    StageInterval(stage=stage, started=started, seconds=start.elapsed_time(end) / 1000)
                )
            self._events.clear()
        return tuple(self._intervals)


def _timed_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
