"""Worker processes of the raster pool for tests."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from service.raster.page import WorkerSettings
from service.raster.process import RasterProcess
from tests.patience import PATIENCE_SECONDS


def settings(*, memory_bytes: int = 1 << 30) -> WorkerSettings:
    return WorkerSettings(memory_bytes=memory_bytes, cpu_seconds=60, max_image_pixels=10_000_000, max_image_edge=5_000)


@contextmanager
def started(settings: WorkerSettings) -> Iterator[RasterProcess]:
    with closing(RasterProcess(settings)) as process:
        process.await_hello(seconds=PATIENCE_SECONDS)
        yield process
