"""What is measured: a checkpoint through the library, or a service through its API. Both order a question's candidates."""

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import httpx

from model import PreparedPage, Reranker
from model.training.examples import DocumentQuestion, OpenPage
from model.training.mmdocir import StoredPage

Rank = Callable[[DocumentQuestion], Sequence[int]]
"""Indices into the question's pages, best first."""

_PAGES_KEPT = 128
_REQUEST_SECONDS = 300


def through_library(reranker: Reranker, *, keep_ratio: float) -> Rank:
    """Pages stay prepared for a while: the questions about a document come one after the other."""

    @lru_cache(maxsize=_PAGES_KEPT)
    def prepare(page: OpenPage) -> PreparedPage:
        return reranker.prepare_page(page())

    def rank(question: DocumentQuestion) -> Sequence[int]:
        return reranker.rank(question.query, [prepare(page) for page in question.pages], keep_ratio).order

    return rank


@contextmanager
def through_service(url: str, *, keep_ratio: float) -> Iterator[Rank]:
    """One request a question, its pages as base64. The window is the service's own."""
    with httpx.Client(base_url=url, timeout=_REQUEST_SECONDS) as client:
        yield lambda question: _ask(client, question, keep_ratio)


def _ask(client: httpx.Client, question: DocumentQuestion, keep_ratio: float) -> list[int]:
    body = {
        "query": question.query,
        "documents": [{"image": base64.b64encode(_encoded(page)).decode("ascii")} for page in question.pages],
        "ziprerank": {"keep_ratio": keep_ratio},
    }
    try:
        response = client.post("/rerank", json=body)
    except httpx.TransportError as error:
        raise SystemExit(
            f"{client.base_url} gave no answer ({type(error).__name__}). Is the service running?"
        ) from error
    if response.status_code != 200:
        raise SystemExit(
            f"The service refused question {question.id} with {response.status_code}: {response.text[:500]}"
        )
    return [result["index"] for result in response.json()["results"]]


def _encoded(page: OpenPage) -> bytes:
    """As the data set has it, where that is known; else a PNG."""
    if isinstance(page, StoredPage):
        return page.read()
    buffer = io.BytesIO()
    page().save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
