"""How long the event loop is busy at a stretch: the HTTP path alone, PDFs and texts in, JSON out, with the model faked.

A service answers probes and accepts requests only between two steps of its loop, so the longest step bounds how long everything
else stands still. Every step of the real service is timed on the wall clock while a process of its own sends requests.

    python -m benchmarks.event_loop --requests 40 --concurrency 4
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pymupdf

from benchmarks import results_file
from benchmarks.service_under_test import running_service
from benchmarks.workloads import write_checkpoint_for_full_pages
from service.settings import Settings

PAGES = 20
TEXTS = 90
LIMIT_MS = 10.0  # of a step's own work; how long it then waits for a core or the interpreter is the machine's affair

CLIENT = """
import base64, json, sys, uuid, urllib.request
from concurrent.futures import ThreadPoolExecutor
url, path, requests, concurrency, form = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
pdf = open(path, "rb").read()
boundary = uuid.uuid4().hex
count = 20
head = f'--{boundary}\\r\\nContent-Disposition: form-data; name="query"\\r\\n\\r\\nlocks\\r\\n'
head += f'--{boundary}\\r\\nContent-Disposition: form-data; name="file"; filename="a.pdf"\\r\\n\\r\\n'
body, content_type = head.encode() + pdf + f"\\r\\n--{boundary}--\\r\\n".encode(), f"multipart/form-data; boundary={boundary}"
if form == "texts":
    body, content_type = pdf, "application/json"
    count = 90
if form == "json":
    documents = [{"pdf": base64.b64encode(pdf).decode()}]
    body, content_type = json.dumps({"query": "locks", "documents": documents}).encode(), "application/json"
def send(_):
    request = urllib.request.Request(url + "/rerank", body, {"Content-Type": content_type})
    with urllib.request.urlopen(request, timeout=300) as response:
        assert len(json.load(response)["results"]) == count
with ThreadPoolExecutor(concurrency) as pool:
    list(pool.map(send, range(requests)))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One callback of the loop."""

    milliseconds: float  # wall clock: own work, and waiting for the interpreter while other threads hold it
    own_milliseconds: float  # CPU time of the loop's thread
    name: str


def main() -> None:
    options = _parse_options()
    results = {}
    text, scans = make_text_pdf(), make_scanned_pdf()
    workloads = (
        ("text", text, "multipart"),
        ("scans", scans, "multipart"),
        ("scans_json", scans, "json"),
        ("texts", make_texts(), "texts"),
    )
    for name, sent, form in workloads:
        steps = measure(sent, form, options.requests, options.concurrency)
        pages = TEXTS if form == "texts" else PAGES
        results[name] = {"bytes": len(sent), "pages": pages, **summary(steps)}
        print(f"{name}: {json.dumps(results[name])}", file=sys.stderr)
    results_file.write("event_loop", results)
    if any(result["max_own_ms"] > LIMIT_MS for result in results.values()):
        raise SystemExit(f"A step worked for over {LIMIT_MS} ms.")


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=40, help="requests of each workload (default: 40)")
    parser.add_argument("--concurrency", type=int, default=4, help="requests at once (default: 4)")
    return parser.parse_args()


def measure(pdf: bytes, form: str, requests: int, concurrency: int) -> list[Step]:
    """Every step of the loop while the client's requests are answered, start-up left out."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            model=str(write_checkpoint_for_full_pages(Path(folder, "checkpoint"))),
            device="cpu",
            port=0,
            max_file_bytes=30 * 2**20,
            drain_grace_seconds=5,
            page_cache_bytes=0,  # every request is rendered
            document_store="memory://event-loop",
        )
        with timed_steps() as steps, running_service(settings) as service:
            steps.clear()
            _send(service.url, pdf, form, requests, concurrency)
            return list(steps)


class timed_steps:
    """Times every `asyncio` handle while it is entered."""

    def __enter__(self) -> list[Step]:
        steps: list[Step] = []
        self._original = run = asyncio.Handle._run

        def timed_run(handle: asyncio.Handle) -> None:
            started, own_started = time.perf_counter(), time.thread_time()
            run(handle)
            own, wall = time.thread_time() - own_started, time.perf_counter() - started
            steps.append(Step(milliseconds=wall * 1000, own_milliseconds=own * 1000, name=_name(handle)))

        asyncio.Handle._run = timed_run  # type: ignore[method-assign, assignment]
        return steps

    def __exit__(self, *exception: object) -> None:
        asyncio.Handle._run = self._original  # type: ignore[method-assign]


def _name(handle: asyncio.Handle) -> str:
    callback = getattr(handle, "_callback", None)
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return getattr(owner.get_coro(), "__qualname__", "task")
    return getattr(callback, "__qualname__", None) or type(callback).__name__


def _send(url: str, pdf: bytes, form: str, requests: int, concurrency: int) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".pdf") as file:
        file.write(pdf)
        file.flush()
        command = [sys.executable, "-c", CLIENT, url, file.name, str(requests), str(concurrency), form]
        subprocess.run(command, check=True)


def summary(steps: list[Step]) -> dict[str, Any]:
    milliseconds = np.array([step.milliseconds for step in steps])
    slowest = sorted(steps, key=lambda step: -step.milliseconds)[:3]
    return {
        "steps": len(steps),
        "p50_ms": round(float(np.percentile(milliseconds, 50)), 3),
        "p99_ms": round(float(np.percentile(milliseconds, 99)), 3),
        "max_ms": round(float(milliseconds.max()), 3),
        "max_own_ms": round(max(step.own_milliseconds for step in steps), 3),
        "slowest": [
            {"ms": round(step.milliseconds, 3), "own_ms": round(step.own_milliseconds, 3), "step": step.name}
            for step in slowest
        ],
    }


def make_text_pdf() -> bytes:
    """A4 pages full of text."""
    with pymupdf.open() as document:
        for number in range(PAGES):
            page = document.new_page(width=595, height=842)
            words = " ".join(f"word{number}{index}" for index in range(400))
            page.insert_textbox(pymupdf.Rect(50, 50, 545, 792), words, fontsize=9)
        return bytes(document.tobytes())


def make_texts() -> bytes:
    """A request of 90 texts of 20 words."""
    texts = [" ".join(f"word{number}{index}" for index in range(20)) for number in range(TEXTS)]
    return json.dumps({"query": "locks", "documents": texts}).encode()


def make_scanned_pdf() -> bytes:
    """A4 pages that are one noisy image each: about 12 MB."""
    generator = np.random.default_rng(0)
    with pymupdf.open() as document:
        for _ in range(PAGES):
            page = document.new_page(width=595, height=842)
            pixels = generator.integers(0, 256, (1169, 827, 3), dtype=np.uint8)
            image = pymupdf.Pixmap(pymupdf.csRGB, 827, 1169, pixels.tobytes(), False)
            page.insert_image(page.rect, stream=image.tobytes("jpeg", jpg_quality=60))
        return bytes(document.tobytes())


if __name__ == "__main__":
    main()
