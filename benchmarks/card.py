"""What only the device can tell: its matrix rate, its clocks, and how often a piece of work waits for it or calls a kernel."""

import subprocess
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from model import StageClock
from model.device import Compute

_SIZE_ON_CARD = 8192
_SIZE_ON_CPU = 1024
_PRODUCTS = 10
_MONITOR_FIELDS = {"clocks.sm": "sm_clock_mhz", "power.draw": "power_watts", "temperature.gpu": "temperature_celsius"}


def matrix_rate(compute: Compute) -> float:
    """TFLOP/s of a plain square product of normal random numbers (zeros run faster) in the model's dtype."""
    size = _SIZE_ON_CARD if compute.device.type == "cuda" else _SIZE_ON_CPU
    a, b = (torch.randn(size, size, device=compute.device).to(compute.dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    clock = StageClock(compute.device)
    with clock.observe("products"):
        for _ in range(_PRODUCTS):
            a @ b
    return round(_PRODUCTS * 2 * size**3 / clock.seconds()["products"] / 1e12, 4)


def monitor() -> dict[str, float] | None:
    """Clock, power and temperature of the first card now; None where nvidia-smi is missing or does not tell."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_MONITOR_FIELDS)}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
        return dict(zip(_MONITOR_FIELDS.values(), map(float, output.split(",")), strict=True))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def inspect(work: Callable[[], Any], compute: Compute) -> dict[str, int | None]:
    """Of one call each: waits for the device, kernels and copies, and the peak of allocated bytes. All None on a CPU."""
    if compute.device.type != "cuda":
        return dict.fromkeys(("waits", "kernels", "peak_bytes"))
    return {"waits": _count_waits(work), "kernels": _count_kernels(work), "peak_bytes": _peak_bytes(work, compute)}


def _count_waits(work: Callable[[], Any]) -> int:
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    return sum("synchroniz" in str(warning.message) for warning in caught)


def _count_kernels(work: Callable[[], Any]) -> int:
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize()
    return sum(event.device_type == DeviceType.CUDA for event in profiler.events())


def _peak_bytes(work: Callable[[], Any], compute: Compute) -> int:
    torch.cuda.reset_peak_memory_stats(compute.device)
    work()
    torch.cuda.synchronize(compute.device)
    return torch.cuda.max_memory_allocated(compute.device)
