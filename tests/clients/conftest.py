"""For all tests of this folder: a service with the demo checkpoint, an API key and a registered PDF; a process a family."""

import base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
import pymupdf
import pytest

from service.commands.demo import PDF
from tests.clients.environments import FamilyProcess, family_process
from tests.patience import PATIENCE_SECONDS, eventually, wait_until_ready
from tests.processes import listening_url, process

KEY = "a-key-of-the-client-tests"
REGISTERED = "town-guide"
_DOTS_PER_INCH = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingService:
    """A running service, asked without a client of its own."""

    root: str
    client: httpx.Client

    def logits(self, query: str, documents: Sequence[str]) -> list[float]:
        """The letter logit of each document, in the order of the request. One window."""
        body = {"query": query, "documents": documents, "raw_scores": True}
        answer = self.client.post("/v1/rerank", json=body).raise_for_status().json()
        by_index = {result["index"]: result["relevance_score"] for result in answer["results"]}
        return [by_index[index] for index in range(len(documents))]

    def answered(self) -> int:
        """Rerank requests that were answered with 200 up to now."""
        samples = [
            line.split()
            for line in self.client.get("/metrics").text.splitlines()
            if line.startswith('ziprerank_requests_total{code="200"') and "rank" in line.partition("route=")[2]
        ]
        return round(sum(float(value) for _, value in samples))


@pytest.fixture(scope="session")
def service() -> Iterator[RankingService]:
    flags = ("--model", "demo", "--port", "0", "--device", "cpu", "--drain-delay-seconds", "0")
    with (
        process(*flags, ZIPRERANK_API_KEY=KEY) as running,
        httpx.Client(
            base_url=listening_url(running), timeout=PATIENCE_SECONDS, headers={"Authorization": f"Bearer {KEY}"}
        ) as client,
    ):
        wait_until_ready(client)
        headers = {"Content-Type": "application/pdf"}
        client.put(f"/documents/{REGISTERED}", content=PDF.read_bytes(), headers=headers).raise_for_status()
        eventually(lambda: client.get(f"/documents/{REGISTERED}").json()["state"] == "ready", "the PDF is processed")
        yield RankingService(root=str(client.base_url).rstrip("/"), client=client)


@pytest.fixture(scope="session")
def pages() -> list[str]:
    """The pages of the demo's PDF as data URIs of PNGs."""
    with pymupdf.open(PDF) as document:
        images = [page.get_pixmap(dpi=_DOTS_PER_INCH).tobytes("png") for page in document]
    return [f"data:image/png;base64,{base64.b64encode(image).decode()}" for image in images]


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], FamilyProcess]]:
    """The process of a family, started when a test first asks for it."""
    folder = tmp_path_factory.mktemp("families")
    started: dict[str, FamilyProcess] = {}
    with ExitStack() as stack:

        def start(name: str) -> FamilyProcess:
            if name not in started:
                started[name] = stack.enter_context(family_process(name, folder))
            return started[name]

        yield start
