"""Real processes on free ports: replicas of the service on the demo checkpoint, and the tools beside them."""

import base64
import itertools
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.tools import tool
from tests.documents import make_image
from tests.patience import PATIENCE_SECONDS
from tests.processes import listening_url, process


@contextmanager
def replica(port: int, store: Path, *flags: str) -> Iterator["subprocess.Popen[str]"]:
    """A small service on `port`; ready as soon as it can be, which is not waited for."""
    settings = ("--model", "demo", "--device", "cpu", "--rasterizer-processes", "1", "--drain-delay-seconds", "0")
    few_threads = {"OMP_NUM_THREADS": "1", "ZIPRERANK_DOCUMENT_STORE": str(store)}
    with process(*settings, "--port", str(port), *flags, **few_threads) as running:
        listening_url(running)
        yield running


@contextmanager
def repeating(*actions: Callable[[int], object]) -> Iterator[None]:
    """Each action in a thread of its own, called with 0, 1, 2, … until the block ends; a failure comes out of the block."""
    enough = threading.Event()

    def repeat(action: Callable[[int], object]) -> None:
        for number in itertools.count():
            if enough.is_set():
                return
            action(number)

    with ThreadPoolExecutor(len(actions)) as threads:
        running = [threads.submit(repeat, action) for action in actions]
        try:
            yield
        finally:
            enough.set()
    for each in running:
        each.result()


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        return httpx.get(url, timeout=PATIENCE_SECONDS).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def tool_process(name: str, *arguments: str | Path, log: Path) -> Iterator[None]:
    """A tool that runs until the end of the block; what it says is in `log`."""
    with log.open("w") as output:
        running = subprocess.Popen([tool(name), *map(str, arguments)], stdout=output, stderr=subprocess.STDOUT)
    try:
        yield
        assert running.poll() is None, f"{name} ended by itself:\n{log.read_text()}"
    finally:
        running.kill()
        running.wait()


def request_of_one_page(number: int) -> dict[str, object]:
    """A request whose page is no other number's."""
    page = base64.b64encode(make_image(64, 64, colour=f"#{number * 1009:06x}")).decode()
    return {"query": "locks", "documents": [{"image": page}]}


def metric(port: int, name: str, **labels: str) -> float:
    """A sample of the replica on `port`."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_SECONDS).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    raise AssertionError(f"{name} has no sample with {labels}")
