"""Every limit of the raster pool, in one record. The reasons for the values are in the design notes on reliability."""

from dataclasses import dataclass

from service.raster.page import OnDegradedPage, WorkerSettings

_MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterLimits:
    """Bounds on the pool, its queue and each document. A document that reaches one fails alone."""

    processes: int
    max_image_pixels: int = 40_000_000  # an A4 scan at 600 dpi is 34.8 million
    max_image_edge: int = 20_000
    open_seconds: float = 5.0
    page_seconds: float = 5.0
    document_seconds: float = 30.0  # sum over opening and all pages
    queue_seconds: float = 10.0  # until the first task of a request starts
    queue_requests: int = 64  # beyond one per process
    queue_bytes: int = 512 * _MEBIBYTE
    worker_memory_bytes: int = 1536 * _MEBIBYTE  # address space; with less, MuPDF leaves pages white
    on_degraded_page: OnDegradedPage = "auto"
    recycle_documents: int = 1_000
    recycle_rss_bytes: int = 400 * _MEBIBYTE

    @property
    def worker_settings(self) -> WorkerSettings:
        """The part that a worker process enforces itself."""
        return WorkerSettings(
            memory_bytes=self.worker_memory_bytes,
            cpu_seconds=2 * self.document_seconds,
            max_image_pixels=self.max_image_pixels,
            max_image_edge=self.max_image_edge,
            on_degraded_page=self.on_degraded_page,
        )
