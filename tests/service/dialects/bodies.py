"""One query and its documents in the body of each dialect, and the scores of each answer by document."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """A dialect as its clients see it."""

    name: str
    path: str
    body: Callable[[str, Sequence[str]], dict[str, Any]]  # of a query and strings
    scores: Callable[[Any], list[tuple[int, float]]]  # index and score, in the order of the answer
    is_sorted: bool = True  # best first; otherwise in the order of the documents

    def order(self, answer: Any) -> list[int]:
        """Indexes, best first."""
        scores = self.scores(answer)
        return [index for index, _ in (scores if self.is_sorted else sorted(scores, key=lambda each: -each[1]))]


def _named(answer: Sequence[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(line["index"], line[name]) for line in answer]


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


WIRES = (
    Wire(
        name="ziprerank",
        path="/v1/rerank",
        body=lambda query, texts: {"model": "m", "query": query, "documents": list(texts)},
        scores=lambda answer: _named(answer["results"], "relevance_score"),
    ),
    Wire(
        name="tei",
        path="/rerank",
        body=lambda query, texts: {"query": query, "texts": list(texts), "raw_scores": False, "truncate": True},
        scores=lambda answer: _named(answer, "score"),
    ),
    Wire(
        name="nim",
        path="/v1/ranking",
        body=lambda query, texts: {
            "model": "m",
            "query": {"text": query},
            "passages": [{"text": text} for text in texts],
            "truncate": "END",
        },
        scores=lambda answer: [(line["index"], _sigmoid(line["logit"])) for line in answer["rankings"]],
    ),
    Wire(
        name="voyage",
        path="/v1/rerank",
        body=lambda query, texts: {"model": "m", "query": query, "documents": list(texts), "truncation": True},
        scores=lambda answer: _named(answer["data"], "relevance_score"),
    ),
    Wire(
        name="sglang",
        path="/v1/rerank",
        body=lambda query, texts: {"query": query, "documents": list(texts), "instruct": "Rank."},
        scores=lambda answer: _named(answer, "score"),
    ),
    Wire(
        name="weaviate",
        path="/rerank",
        body=lambda query, texts: {"query": query, "documents": list(texts), "property": "body"},
        scores=lambda answer: [(index, line["score"]) for index, line in enumerate(answer["scores"])],
        is_sorted=False,
    ),
    Wire(
        name="elastic",
        path="/rerank",
        body=lambda query, texts: {"query": query, "input": list(texts)},
        scores=lambda answer: _named(answer["rerank"], "relevance_score"),
    ),
    Wire(
        name="dashscope",
        path="/api/v1/services/rerank/text-rerank/text-rerank",
        body=lambda query, texts: {
            "model": "m",
            "input": {"query": query, "documents": list(texts)},
            "parameters": {"return_documents": False},
        },
        scores=lambda answer: _named(answer["output"]["results"], "relevance_score"),
    ),
    Wire(
        name="vllm_score",
        path="/score",
        body=lambda query, texts: {"model": "m", "text_1": query, "text_2": list(texts)},
        scores=lambda answer: _named(answer["data"], "score"),
        is_sorted=False,
    ),
)
