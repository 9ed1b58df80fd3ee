import time
import weakref

import pytest
import torch

from model import device
from model.device import StageClock, choose_compute, memory_bytes, running_on, upload
from model.errors import ConfigurationError, DeviceLostError, DeviceMemoryError

CPU = torch.device("cpu")


def test_auto_is_float32_on_a_cpu_with_the_reason() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device; auto takes it")
    compute = choose_compute("auto", "auto")
    assert (compute.device, compute.dtype, compute.dtype_name) == (CPU, torch.float32, "float32")
    assert "no CUDA device" in compute.reason


@pytest.mark.parametrize("device", ["gpu", "mps", "cuda:99", "", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ConfigurationError, match="device is"):
        choose_compute(device, "auto")


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="float8"):
        choose_compute("cpu", "float8")


def test_upload_to_the_cpu_copies_nothing() -> None:
    tensor = torch.ones(3)
    assert upload(tensor, CPU) is tensor
    assert memory_bytes(CPU) == {}


def test_a_stage_that_occurs_twice_is_added_up() -> None:
    clock = StageClock(CPU)
    for stage in ("vision", "language", "vision"):
        with clock.observe(stage):
            pass
    assert set(clock.seconds()) == {"vision", "language"}
    assert all(seconds >= 0 for seconds in clock.seconds().values())


def test_the_time_of_a_pause_is_left_out_of_the_stage() -> None:
    clock = StageClock(CPU)
    started = time.perf_counter()
    with clock.observe("language"), clock.paused():
        time.sleep(0.05)
    assert clock.paused_seconds >= 0.05
    assert clock.seconds()["language"] <= time.perf_counter() - started - 0.05


def test_intervals_tell_when_each_stage_ran() -> None:
    clock = StageClock(CPU)
    before = time.perf_counter()
    for stage in ("vision", "compress", "vision"):
        with clock.observe(stage):
            time.sleep(0.001)
    after = time.perf_counter()
    intervals = clock.intervals()
    assert [interval.stage for interval in intervals] == ["vision", "compress", "vision"]
    edges = [edge for interval in intervals for edge in (interval.started, interval.started + interval.seconds)]
    assert edges == sorted(edges) and before <= edges[0] and edges[-1] <= after
    assert clock.seconds()["vision"] == pytest.approx(intervals[0].seconds + intervals[2].seconds)


def test_out_of_memory_and_lost_devices_get_our_names() -> None:
    with pytest.raises(DeviceMemoryError), running_on(CPU):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(DeviceLostError), running_on(CPU):
        raise torch.AcceleratorError("device-side assert")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=str,
)
def test_a_library_that_gets_no_memory_is_out_of_memory(error: Exception) -> None:
    with pytest.raises(DeviceMemoryError), running_on(CPU):
        raise error


def test_a_cuda_error_with_the_code_of_a_failed_allocation_is_out_of_memory() -> None:
    error = torch.AcceleratorError("CUDA error: out of memory")
    error.error_code = 2  # type: ignore[attr-defined]  # as torch sets it
    with pytest.raises(DeviceMemoryError), running_on(CPU):
        raise error


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), running_on(CPU):
        raise RuntimeError("shapes differ")


def test_a_failed_batch_leaves_nothing_behind_while_its_error_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the allocator has nothing to give back, and whatever is tried next fails too."""
    held: list[weakref.ref[torch.Tensor]] = []
    alive_when_emptied: list[bool] = []

    def forward() -> None:
        activations = torch.ones(8)
        held.append(weakref.ref(activations))
        try:
            raise ValueError("a fault on the way, whose traceback holds the frame as well")
        except ValueError:
            raise torch.OutOfMemoryError("CUDA out of memory")  # noqa: B904 (as torch itself raises)

    monkeypatch.setattr(device, "give_back_memory", lambda _: alive_when_emptied.append(held[0]() is not None))
    with pytest.raises(DeviceMemoryError) as failure, running_on(CPU):
        forward()
    assert alive_when_emptied == [False]
    assert isinstance(failure.value.__cause__, torch.OutOfMemoryError), "the log still says where memory ran out"
