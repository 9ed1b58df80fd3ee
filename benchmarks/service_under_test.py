"""The real service for benchmarks of its HTTP path: a socket, raster workers, threads, everything but the forward pass."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from model import Observe, PageScores, PreparedPage, PreparedRequest, Reranker
from service.app import load_reranker
from service.server import make_server
from service.settings import Settings

_TICK_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeScores:
    """Scores that fall from page to page."""

    batch: Sequence[PreparedRequest]

    def wait(self) -> list[PageScores]:
        return [
            PageScores(
                logits=tuple(-float(index) for index in range(len(request.pages))),
                order=tuple(range(len(request.pages))),
                visual_tokens=request.visual_token_count,
                kept_tokens=request.kept_token_count,
                prompt_tokens=request.token_count,
            )
            for request in self.batch
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeModel:
    """The real library up to the forward pass, which costs nothing."""

    reranker: Reranker

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reranker, name)

    def start(self, batch: Sequence[PreparedRequest], *, observe: Observe) -> FakeScores:
        return FakeScores(batch=batch)

    def encode(self, pages: Sequence[PreparedPage]) -> int:
        return len(pages)

    def patches_to_encode(self, request: PreparedRequest) -> int:
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceUnderTest:
    url: str
    loop_thread: threading.Thread  # nothing but the event loop runs in it


@contextmanager
def running_service(settings: Settings) -> Iterator[ServiceUnderTest]:
    """A ready service in this process, on the port that the settings name (0: a free one)."""
    server = make_server(settings, load=lambda settings: FakeModel(reranker=load_reranker(settings)))  # type: ignore[arg-type, return-value]
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        server.is_listening.wait()
        while not server.lifecycle.is_ready:
            assert thread.is_alive(), "the service did not start"
            time.sleep(_TICK_SECONDS)
        yield ServiceUnderTest(url=f"http://127.0.0.1:{server.port}", loop_thread=thread)
    finally:
        server.stop(0)
        thread.join()
