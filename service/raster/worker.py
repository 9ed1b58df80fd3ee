"""The worker process: `python -m service.raster.worker SETTINGS` reads hostile documents where they can do no harm.

Speaks newline-delimited JSON over an inherited socket (never pickle: an attacker who controls this process must not reach
its parent), puts pixels into an inherited shared slot, and ends when the socket closes. It imports the engines,
`model.pages` and the standard library only, never torch or the web framework. Deadlines are the parent's.

    > {"ticket": 1, "verb": "open", "document": 7, "kind": "pdf", "bytes": 5120}  and then 5,120 bytes
    < {"ticket": 1, "page_count": 28, "is_paged": true, "rss_bytes": 60000000}
    > {"ticket": 2, "verb": "page", "document": 7, "number": 3}  perhaps with "longest_edge": 2400
    < {"ticket": 2, "width": 725, "height": 1024, "degraded_reasons": [], "began_ns": …, "ended_ns": …,
       "rss_bytes": 61000000}
    > {"ticket": 3, "verb": "close", "documents": [7]}
    < {"ticket": 3, "rss_bytes": 61000000}
    > {"ticket": 4, "verb": "only_page", "kind": "image", "bytes": 512}  and then 512 bytes
    < {"ticket": 4, "error": "corrupt_image", "width": null, "height": null, "rss_bytes": 61000000}
"""

import ctypes
import json
import math
import mmap
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, BinaryIO, Protocol

from model.pages.image import LONGEST_PAGE_EDGE
from model.pages.text_page_format import TextPageFormat
from service.raster.image_decoder import ImageDocument
from service.raster.page import MEMORY_EXIT_STATUS, SLOT_BYTES, Kind, PagePixels, RasterFailure, WorkerSettings
from service.raster.pdf_engine import PdfDocument
from service.raster.text_file import TextFile

_OPEN_FILES = 32
_NICE = 5
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


class OpenDocument(Protocol):
    """An engine's handle of one document, held open between messages."""

    page_count: int
    is_paged: bool

    def render(self, number: int, *, longest_edge: int = LONGEST_PAGE_EDGE) -> PagePixels: ...
    def close(self) -> None: ...


def main() -> None:
    argument = json.loads(sys.argv[1])
    control = socket.socket(fileno=argument["control_fd"])
    slot = mmap.mmap(argument["slot_fd"], SLOT_BYTES)
    os.close(argument["slot_fd"])
    settings = WorkerSettings(**argument["settings"])
    confine_process(memory_bytes=settings.memory_bytes)
    try:
        RasterWorker(settings, slot=slot).serve(control)
    except MemoryError:
        os._exit(MEMORY_EXIT_STATUS)


def confine_process(*, memory_bytes: int) -> None:
    """Set the limits that need no privileges. The container adds the others (no network, read-only root)."""
    os.nice(_NICE)
    _limit(resource.RLIMIT_AS, memory_bytes)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        # Fires when the parent's *thread* that started this process ends; that thread lives as long as the pool.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:
        resource.setrlimit(which, (value, value))
    except (ValueError, OSError):
        if sys.platform == "linux":  # macOS refuses some of them, the address space for one
            raise


class RasterWorker:
    """Answers one message at a time. The parent decides which documents are open, message by message."""

    def __init__(self, settings: WorkerSettings, *, slot: mmap.mmap) -> None:
        self._settings = settings
        self._slot = slot
        self._documents: dict[int, OpenDocument] = {}
        self._verbs: dict[str, Callable[[dict[str, Any], BinaryIO], dict[str, Any]]] = {
            "hello": lambda message, stream: {},
            "open": self._open,
            "page": self._page,
            "only_page": self._only_page,
            "close": self._close,
        }

    def serve(self, control: socket.socket) -> None:
        stream = control.makefile("rb")
        while line := stream.readline():
            message = json.loads(line)
            extend_cpu_limit(seconds=self._settings.cpu_seconds)
            try:
                reply = self._verbs[message["verb"]](message, stream)
            except RasterFailure as failure:
                reply = {"error": failure.code, "width": failure.width, "height": failure.height}
            reply |= {"ticket": message["ticket"], "rss_bytes": resident_bytes()}
            control.sendall(json.dumps(reply).encode() + b"\n")

    def _open(self, message: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
        document = self._read(message, stream)
        self._documents[message["document"]] = document
        return {"page_count": document.page_count, "is_paged": document.is_paged}

    def _read(self, message: dict[str, Any], stream: BinaryIO) -> OpenDocument:
        data = stream.read(message["bytes"])
        match Kind(message["kind"]):
            case Kind.PDF:
                return PdfDocument(data, on_degraded_page=self._settings.on_degraded_page)
            case Kind.IMAGE:
                settings = self._settings
                return ImageDocument(data, max_pixels=settings.max_image_pixels, max_edge=settings.max_image_edge)
            case Kind.TEXT:
                return TextFile(data, TextPageFormat(**message.get("text_page", {})))

    def _page(self, message: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
        began_ns = time.time_ns()
        return self._show(self._documents[message["document"]].render(message["number"], **_edge(message)), began_ns)

    def _only_page(self, message: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
        began_ns = time.time_ns()
        with closing(self._read(message, stream)) as document:
            return self._show(document.render(1, **_edge(message)), began_ns)

    def _show(self, page: PagePixels, began_ns: int) -> dict[str, Any]:
        if page.degraded_reasons and self._settings.on_degraded_page == "error":
            raise RasterFailure("content_lost")
        self._slot[: page.width * page.height * 3] = page.data
        times = {"began_ns": began_ns, "ended_ns": time.time_ns()}
        return {"width": page.width, "height": page.height, "degraded_reasons": page.degraded_reasons, **times}

    def _close(self, message: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
        for key in message["documents"]:
            self._documents.pop(key).close()
        return {}


def _edge(message: dict[str, Any]) -> dict[str, int]:
    return {"longest_edge": message["longest_edge"]} if "longest_edge" in message else {}


def extend_cpu_limit(*, seconds: float) -> None:
    """Allow the next task some processor time: a second fuse beside the parent's deadlines.

    The kernel counts over the whole life of a process, so the limit is raised before each task.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(usage.ru_utime + usage.ru_stime + seconds)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def resident_bytes() -> int:
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the peak, in bytes on macOS
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
