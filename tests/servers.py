"""Real servers for tests: uvicorn on a free port in a thread, reached over a socket."""

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from model import FakeRankingModel, PageScores, PreparedRequest, Reranker, score_in_input_order
from service.app import load_reranker
from service.dialects import DIALECTS
from service.dialects.dialect import Dialect
from service.lifecycle import Lifecycle
from service.server import Server, make_server
from service.settings import Settings
from service.startup import LoadModel
from tests.patience import PATIENCE, PATIENCE_SECONDS, wait_until_ready


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningService:
    """A service and a client that talks to it."""

    url: str
    client: httpx.Client
    lifecycle: Lifecycle
    server: Server
    thread: threading.Thread

    def exit_code(self) -> int:
        """That with which it ends by itself; a service that goes on fails the test."""
        self.thread.join(PATIENCE_SECONDS)
        assert not self.thread.is_alive(), "the service goes on"
        return self.server.exit_code

    def metric(self, name: str, **labels: str) -> float:
        """A sample's value, 0 where there is none."""
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        for line in self.client.get("/metrics").text.splitlines():
            series, _, value = line.rpartition(" ")
            own_name, _, own_labels = series.partition("{")
            if own_name == name and wanted <= set(own_labels.rstrip("}").split(",")):
                return float(value)
        return 0.0


def settings_for_tests(**changes: Any) -> Settings:
    values = {
        "model": "demo", "device": "cpu", "dtype": "float32", "port": 0, "rasterizer_processes": 1,
        **PATIENCE, "drain_delay_seconds": 0, "drain_grace_seconds": 5, "document_store": f"memory://{uuid.uuid4().hex}",
    }  # fmt: skip
    return Settings(**{**values, **changes})


@contextmanager
def running_service(
    load: LoadModel = load_reranker, *, wait: bool = True, dialects: Sequence[Dialect] = DIALECTS, **settings: Any
) -> Iterator[RunningService]:
    """A service on a free port; by default returned once it is ready."""
    server = make_server(settings_for_tests(**settings), load=load, dialects=dialects)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        assert server.is_listening.wait(PATIENCE_SECONDS), "the server did not start"
        url = f"http://127.0.0.1:{server.port}"
        with httpx.Client(base_url=url, timeout=PATIENCE_SECONDS) as client:
            if wait:
                wait_until_ready(client)
            yield RunningService(url=url, client=client, lifecycle=server.lifecycle, server=server, thread=thread)
    finally:
        server.stop(0)
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive(), "the server did not stop"


def fake_loader(
    reranker: Reranker, score_batch: Callable[[Sequence[PreparedRequest]], list[PageScores]] = score_in_input_order
) -> LoadModel:
    """A `load` for `running_service` whose model answers by `score_batch`."""
    return lambda settings: FakeRankingModel(model=reranker, score_batch=score_batch)
