"""A flood of documents with many pages cannot fill the memory: beyond the limit of new pages requests are refused."""

import base64
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from model import PageScores, PreparedRequest, Reranker, score_in_input_order
from tests.documents import make_pdf
from tests.patience import PATIENCE_SECONDS, eventually
from tests.servers import fake_loader, running_service
from tests.service.http.requests import refused, rerank


def pdf(pages: int, *, width: int) -> dict[str, str]:
    return {"pdf": base64.b64encode(make_pdf(pages, width=width)).decode()}


def test_pages_that_wait_for_the_device_are_bounded(reranker: Reranker) -> None:
    gate = Event()

    def score(batch: Sequence[PreparedRequest]) -> list[PageScores]:
        assert gate.wait(PATIENCE_SECONDS)
        return score_in_input_order(batch)

    with running_service(fake_loader(reranker, score), max_held_pages=5) as service, ThreadPoolExecutor(1) as pool:
        first = pool.submit(rerank, service, [pdf(5, width=300)])
        try:
            eventually(lambda: service.metric("ziprerank_requests_running") == 1)
            refused(rerank(service, [pdf(1, width=301)]), 429, "overloaded", "hold 5 new pages, this one has 1")
        finally:
            gate.set()
        assert first.result().status_code == 200
        assert rerank(service, [pdf(1, width=301)]).status_code == 200
