"""The real service for benchmarks of its HTTP path: a socket, raster workers, threads, everything but the forward pass."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from model import FakeRankingModel, RankingModel
from service.app import load_reranker
from service.server import make_server
from service.settings import Settings

_TICK_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceUnderTest:
    url: str
    loop_thread: threading.Thread  # nothing but the event loop runs in it


def load_fake(settings: Settings) -> RankingModel:
    """The real library up to the forward pass, which costs nothing."""
    model = load_reranker(settings)
    return FakeRankingModel(model=model, name=model.name)


@contextmanager
def running_service(settings: Settings) -> Iterator[ServiceUnderTest]:
    """A ready service in this process, on the port that the settings name (0: a free one)."""
    server = make_server(settings, load=load_fake)
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
