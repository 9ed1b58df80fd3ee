"""What one request costs on the host, everything but the model: 20 JPEG pages in, JSON out, over a real socket.

    cold         every page is new to the service
    again        the same pages as the request before
    registered   the same pages by the ids under which they were put before, as JSON
    texts        90 texts of 20 words, every one new to the service, as JSON strings
    registered_90  90 registered pages, by strings: the yardstick of the texts

Requests come one after another from a process of its own; only the forward pass is faked. CPU time is that of the service's
process and its raster workers together, and apart from it that of the event loop's thread. The published path's image
processor runs on the same pages for comparison, decoding included. Needs Linux, for the workers' clocks.

    python -m benchmarks.host_path --requests 20
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pymupdf
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from benchmarks import results_file
from benchmarks.service_under_test import ServiceUnderTest, running_service
from benchmarks.workloads import PUBLISHED_IMAGE, write_checkpoint_for_full_pages
from service.settings import Settings

PAGES = 20
TEXTS = 90
WORDS_A_TEXT = 20
MOST_PAGE_BYTES = 150_000
JPEG_QUALITY = 75
GOALS = {
    "cold": {"cpu_ms": 220.0, "wall_ms": 130.0, "loop_ms": 5.0},
    "registered": {"cpu_ms": 15.0},
    "texts": {"cpu_ms": 2.0 * TEXTS, "wall_ms": 2.0 * TEXTS},
}
WARM_UP_REQUESTS = 3
SETTLE_SECONDS = 0.03  # the log line and the metrics follow the answer
PATIENCE_SECONDS = 60.0
# Full after the warm-up, as in a service that has run for a while: pages then take the place of others, and no new memory.
PAGE_CACHE_BYTES = 128 << 20
PUBLISHED_ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFile:
    """A request as the client sends it."""

    method: str
    route: str
    content_type: str
    body: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Milliseconds of one request."""

    wall_ms: float
    cpu_ms: float  # service_ms and raster_ms
    service_ms: float  # the service's own process, all threads
    raster_ms: float  # its raster workers
    loop_ms: float  # the event loop's thread, part of service_ms


def main() -> None:
    options = _parse_options()
    page_sets = PageSets()
    costs = measure(page_sets, options.requests)
    cases = {name: {"median": medians(costs[name]), "goal": GOALS.get(name)} for name in costs}
    results_file.write(
        "host_path",
        {
            "pages": PAGES,
            "texts": TEXTS,
            "words_a_text": WORDS_A_TEXT,
            "page_bytes": round(statistics.median(page_sets.sizes)),
            "requests": options.requests,
            "rasterizer_processes": Settings().rasterizer_processes,
            **cases,
            "published": published_path(page_sets.next()),
        },
    )


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20, help="measured requests of each case (default: 20)")
    return parser.parse_args()


class PageSets:
    """Sets of 20 text pages as JPEG, A4 at 1024 px, no page twice."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._generator = np.random.default_rng(0)
        self._originals = [self._draw_page() for _ in range(PAGES)]

    def next(self) -> list[bytes]:
        """Every page with a few pixels that no other page has."""
        pages = [self._encode(original) for original in self._originals]
        self.sizes += map(len, pages)
        return pages

    def next_texts(self) -> list[str]:
        """As many texts as a request of texts has, no text twice."""
        return [" ".join(self._word() for _ in range(WORDS_A_TEXT)) for _ in range(TEXTS)]

    def _draw_page(self) -> np.ndarray:
        lines = [" ".join(self._word() for _ in range(11)) for _ in range(38)]
        with pymupdf.open() as document:
            page = document.new_page(width=595, height=842)
            page.insert_textbox(pymupdf.Rect(60, 60, 535, 800), "\n".join(lines), fontsize=9.5)
            scale = 1024 / 842
            pixmap = page.get_pixmap(matrix=pymupdf.Matrix(scale, scale), alpha=False)
        image = Image.frombytes("RGB", (pixmap.width, pixmap.height), pixmap.samples)
        return np.array(image.crop((0, 0, 724, 1024)))

    def _word(self) -> str:
        length = int(self._generator.integers(2, 11))
        return "".join(self._generator.choice(list("abcdefghijklmnopqrstuvwxyz"), length))

    def _encode(self, original: np.ndarray) -> bytes:
        page = original.copy()
        page[8:16, 8:40] = self._generator.integers(0, 256, (8, 32, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(page).save(stream, "JPEG", quality=JPEG_QUALITY)
        assert stream.tell() <= MOST_PAGE_BYTES, "the goal is for pages of at most 150 KB"
        return stream.getvalue()


def measure(page_sets: PageSets, requests: int) -> dict[str, list[Cost]]:
    """What each request of each case costs."""
    count = WARM_UP_REQUESTS + requests
    with tempfile.TemporaryDirectory() as folder:
        requests_folder = RequestsFolder(Path(folder))
        cold = [requests_folder.multipart(page_sets.next()) for _ in range(count)]
        documents = [requests_folder.document(f"page-{number}", page) for number, page in enumerate(page_sets.next())]
        references = requests_folder.references(documents)
        store = str(Path(folder) / "documents")
        model = str(write_checkpoint_for_full_pages(Path(folder) / "checkpoint"))
        settings = Settings(model=model, device="cpu", port=0, document_store=store, page_cache_bytes=PAGE_CACHE_BYTES)
        with running_service(settings) as service, Client(service) as client:
            cases = {"cold": client.send_all(cold), "again": client.send_all([cold[-1]] * count)}
            register(client, service, documents)
            cases["registered"] = client.send_all([references] * count)
        cases |= measure_texts(page_sets, requests_folder, settings, count)
    return {name: costs[WARM_UP_REQUESTS:] for name, costs in cases.items()}


def measure_texts(
    page_sets: PageSets, folder: "RequestsFolder", settings: Settings, count: int
) -> dict[str, list[Cost]]:
    """Texts, and as many pages that are in the cache, which has its default size here."""
    texts = [folder.strings(page_sets.next_texts()) for _ in range(count)]
    pages = [page for _ in range(-(-TEXTS // PAGES)) for page in page_sets.next()][:TEXTS]
    documents = [folder.document(f"more-{number}", page) for number, page in enumerate(pages)]
    references = folder.strings([f"ziprerank://more-{number}" for number in range(TEXTS)])
    with running_service(settings.model_copy(update={"page_cache_bytes": None})) as service, Client(service) as client:
        costs = {"texts": client.send_all(texts)}
        register(client, service, documents)
        return {**costs, "registered_90": client.send_all([references] * count)}


@dataclass(frozen=True, slots=True)
class RequestsFolder:
    """Where bodies wait to be sent."""

    path: Path

    def multipart(self, pages: Sequence[bytes]) -> RequestFile:
        """A form with a query and a file part for every page."""
        boundary = "7d1f0c52e3b94a6f"
        name = 'Content-Disposition: form-data; name="{}"'
        pieces = [f"--{boundary}\r\n{name.format('query')}\r\n\r\nlocks of the canal\r\n".encode()]
        for number, page in enumerate(pages):
            heading = f'{name.format("file")}; filename="page-{number}.jpg"\r\nContent-Type: image/jpeg'
            pieces += [f"--{boundary}\r\n{heading}\r\n\r\n".encode(), page, b"\r\n"]
        body = b"".join(pieces) + f"--{boundary}--\r\n".encode()
        return self._request("POST", "/rerank", f"multipart/form-data; boundary={boundary}", body)

    def document(self, id: str, page: bytes) -> RequestFile:
        """A page to be registered under an id."""
        return self._request("PUT", f"/documents/{id}", "image/jpeg", page)

    def references(self, documents: Sequence[RequestFile]) -> RequestFile:
        """A query about registered documents."""
        named = [{"id": document.route.removeprefix("/documents/")} for document in documents]
        body = json.dumps({"query": "locks of the canal", "documents": named}).encode()
        return self._request("POST", "/rerank", "application/json", body)

    def strings(self, documents: Sequence[str]) -> RequestFile:
        """A query about documents that are strings."""
        body = json.dumps({"query": "locks of the canal", "documents": documents}).encode()
        return self._request("POST", "/v1/rerank", "application/json", body)

    def _request(self, method: str, route: str, content_type: str, body: bytes) -> RequestFile:
        file = self.path / f"{len(list(self.path.iterdir()))}.body"
        file.write_bytes(body)
        return RequestFile(method=method, route=route, content_type=content_type, body=file)


class Client:
    """The process that sends, and the clocks that are read around each request."""

    def __init__(self, service: ServiceUnderTest) -> None:
        self._address = urlsplit(service.url).netloc.split(":")
        assert service.loop_thread.ident is not None
        self._loop_clock = time.pthread_getcpuclockid(service.loop_thread.ident)
        self._workers = raster_workers()

    def __enter__(self) -> "Client":
        command = [sys.executable, "-m", "benchmarks.single_request_client", *self._address]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()

    def send_all(self, requests: Sequence[RequestFile]) -> list[Cost]:
        return [self.send(request) for request in requests]

    def send(self, request: RequestFile) -> Cost:
        """Send one request, and wait for its answer and for what the service still does after it."""
        before = self._read_clocks()
        wall_ms = self._exchange(request)
        time.sleep(SETTLE_SECONDS)
        after = self._read_clocks()
        loop, service, raster = ((end - start) * 1000 for start, end in zip(before, after, strict=True))
        return Cost(wall_ms=wall_ms, cpu_ms=service + raster, service_ms=service, raster_ms=raster, loop_ms=loop)

    def _exchange(self, request: RequestFile) -> float:
        assert self._process.stdin and self._process.stdout
        line = "\t".join([request.method, request.route, request.content_type, str(request.body)])
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def _read_clocks(self) -> tuple[float, float, float]:
        """CPU seconds so far: the loop's thread, this process, the raster workers."""
        return time.clock_gettime(self._loop_clock), time.process_time(), sum(map(cpu_seconds, self._workers))


def raster_workers() -> list[int]:
    """Process ids of the service's children."""
    stats = (stat.read_text().rpartition(")") for stat in Path("/proc").glob("[0-9]*/stat"))
    return [int(head.split()[0]) for head, _, tail in stats if int(tail.split()[1]) == os.getpid()]


def cpu_seconds(pid: int) -> float:
    """Time on a processor, to the nanosecond (`stat` counts in hundredths of a second). For processes of one thread."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def register(client: Client, service: ServiceUnderTest, documents: Sequence[RequestFile]) -> None:
    """Put the documents, and wait until the service has processed them."""
    client.send_all(documents)
    deadline = time.monotonic() + PATIENCE_SECONDS
    for document in documents:
        while _state_of(service.url + document.route) != "ready":
            assert time.monotonic() < deadline, "the documents are not processed"
            time.sleep(SETTLE_SECONDS)


def _state_of(url: str) -> str:
    with urlopen(url) as response:
        return str(json.load(response)["state"])


def medians(costs: Sequence[Cost]) -> dict[str, float]:
    names = Cost.__dataclass_fields__
    return {name: round(statistics.median(getattr(cost, name) for cost in costs), 2) for name in names}


def published_path(pages: Sequence[bytes]) -> dict[str, float]:
    """CPU milliseconds of the library's way from the same JPEG bytes to float32 patches."""
    image = PUBLISHED_IMAGE
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": image.min_pixels, "longest_edge": image.max_pixels},
        patch_size=image.patch_size,
        merge_size=image.merge_size,
        temporal_patch_size=image.temporal_patch_size,
    )

    def rounds() -> Iterator[tuple[float, float]]:
        for _ in range(PUBLISHED_ROUNDS):
            started = time.process_time()
            images = [Image.open(io.BytesIO(page)).convert("RGB") for page in pages]
            decoded = time.process_time()
            processor(images=images, return_tensors="pt")
            yield decoded - started, time.process_time() - decoded

    decode, process = (statistics.median(seconds) * 1000 for seconds in zip(*rounds(), strict=True))
    return {"cpu_ms": round(decode + process, 2), "decode_ms": round(decode, 2), "processor_ms": round(process, 2)}


if __name__ == "__main__":
    main()
