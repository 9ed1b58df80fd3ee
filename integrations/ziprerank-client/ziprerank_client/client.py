"""One rerank request and its answer, in threads or on an event loop."""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import httpx

Item = TypeVar("Item")
Document = Mapping[str, str]
Score = Literal["relative", "softmax", "rank", "logit"]
OnDocumentError = Literal["fail", "skip"]

_TRIED_AGAIN = (429, 503)
_LONGEST_PAUSE = 30.0  # seconds
_PLACE = re.compile(r"\Adocuments\[\d+\][^:]*: ")
"""The beginning of a message about a document: its place among those that were sent, which are not all of the caller's."""


class ZipRerankError(RuntimeError):
    """The service refused the request, or cannot be reached. `str` gives its message."""

    def __init__(self, message: str, *, status: int | None = None, code: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.status = status  # None: there was no answer, or no request
        self.code = code  # as in the service's table of errors
        self.request_id = request_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """One document of a ranking."""

    index: int  # in the request
    score: float
    error: str | None  # why the document was left out of the ranking; it then comes last


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankClient:
    """Sends requests to one service. None of a field: the service decides."""

    base_url: str  # without a path, unless the service has a path prefix
    api_key: str | None = None
    keep_ratio: float | None = None  # share of each page's visual tokens that the model reads
    score: Score = "relative"  # relative: the best page has 1.0
    timeout_ms: int | None = None  # within which the service answers, by a lesser ranking if need be
    on_document_error: OnDocumentError = "fail"  # skip: unusable documents come last
    max_wait_seconds: float = 120.0  # for a connection, and for each part of the answer
    max_retries: int = 2  # after 429 and 503

    def rank(
        self, query: str, items: Sequence[Item], convert: Callable[[Item], Document], *, top_n: int | None = None
    ) -> list[Ranked]:
        """Best first, at most top_n. convert: an item to a document of the request, or ValueError where it is unusable.

        Raises: ZipRerankError.
        """
        job = self._job(query, items, convert, top_n)
        if not job.documents:
            return job.ranking({})
        with httpx.Client(timeout=self.max_wait_seconds) as client:
            for attempt in range(self.max_retries + 1):
                try:
                    response = client.post(job.url, json=job.body, headers=job.headers)
                except httpx.TransportError as error:
                    raise self._unreachable(error) from error
                if response.status_code not in _TRIED_AGAIN or attempt == self.max_retries:
                    break
                time.sleep(_pause_seconds(response))
        return job.ranking(_answer(response))

    async def arank(
        self, query: str, items: Sequence[Item], convert: Callable[[Item], Document], *, top_n: int | None = None
    ) -> list[Ranked]:
        """As `rank`. Files are read in a thread. Raises: ZipRerankError."""
        job = await asyncio.to_thread(self._job, query, items, convert, top_n)
        if not job.documents:
            return job.ranking({})
        async with httpx.AsyncClient(timeout=self.max_wait_seconds) as client:
            for attempt in range(self.max_retries + 1):
                try:
                    response = await client.post(job.url, json=job.body, headers=job.headers)
                except httpx.TransportError as error:
                    raise self._unreachable(error) from error
                if response.status_code not in _TRIED_AGAIN or attempt == self.max_retries:
                    break
                await asyncio.sleep(_pause_seconds(response))
        return job.ranking(_answer(response))

    def _job(self, query: str, items: Sequence[Item], convert: Callable[[Item], Document], top_n: int | None) -> "_Job":
        if top_n is not None and top_n < 1:
            raise ZipRerankError(f"top_n is {top_n}; send 1 or more, or None for all documents.")
        documents: dict[int, Document] = {}
        unusable: dict[int, str] = {}
        for index, item in enumerate(items):
            try:
                documents[index] = convert(item)
            except ValueError as error:
                if self.on_document_error == "fail":
                    raise ZipRerankError(f"documents[{index}]: {error}") from error
                unusable[index] = str(error)
        chosen = {"keep_ratio": self.keep_ratio, "timeout_ms": self.timeout_ms}
        options = {name: value for name, value in chosen.items() if value is not None}
        body = {
            "query": query,
            "documents": list(documents.values()),
            "ziprerank": {
                **options,
                "results": "documents",
                "score": self.score,
                "on_document_error": self.on_document_error,
            },
        }
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        affinity = _only_registered(documents.values())
        if affinity and affinity.isascii() and affinity.isprintable():  # no other id exists; the service says so
            headers["X-ZipRerank-Affinity"] = affinity
        return _Job(
            url=f"{self.base_url.rstrip('/')}/v1/rerank",
            body=body if top_n is None else {**body, "top_n": top_n},
            headers=headers,
            documents=tuple(documents),
            unusable=unusable,
            top_n=top_n,
        )

    def _unreachable(self, error: httpx.TransportError) -> ZipRerankError:
        if isinstance(error, httpx.TimeoutException):
            return ZipRerankError(
                f"{self.base_url} did not answer within {self.max_wait_seconds:g} s. Raise max_wait_seconds."
            )
        return ZipRerankError(f"{self.base_url} cannot be reached: {error or type(error).__name__}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    url: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    documents: Sequence[int]  # places of the documents that are sent
    unusable: Mapping[int, str]  # reasons of those that are not
    top_n: int | None

    def ranking(self, answer: Mapping[str, Any]) -> list[Ranked]:
        skipped = {error["index"]: _PLACE.sub("", error["message"]) for error in answer.get("errors", ())}
        ranking = [
            Ranked(
                index=self.documents[result["index"]],
                score=result["relevance_score"],
                error=skipped.get(result["index"]),
            )
            for result in answer.get("results", ())
        ]
        lowest = min((each.score for each in ranking), default=0.0)
        last = [Ranked(index=index, score=min(lowest, 0.0), error=reason) for index, reason in self.unusable.items()]
        return [*ranking, *last][: self.top_n]


def _only_registered(documents: Iterable[Document]) -> str | None:
    """The id of the registered document that all pages are of. None: they are of several, or not all registered."""
    ids = {document.get("id", "").partition("#page=")[0] for document in documents}
    return (ids.pop() or None) if len(ids) == 1 else None


def _pause_seconds(response: httpx.Response) -> float:
    try:
        return min(float(response.headers.get("Retry-After", "1")), _LONGEST_PAUSE)
    except ValueError:
        return 1.0


def _answer(response: httpx.Response) -> Mapping[str, Any]:
    """Raises: ZipRerankError."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        body = {"message": f"the answer is not JSON: {response.text[:200]}", "results": None}
    if response.status_code == 200 and isinstance(body.get("results"), list):
        return body
    message = str(body.get("message") or body.get("detail") or response.reason_phrase)
    raise ZipRerankError(
        f"{message} (status {response.status_code})",
        status=response.status_code,
        code=str(body.get("code", "")),
        request_id=str(body.get("request_id", "")),
    )
