"""Paths that several dialects share: the keys of the body say whose a request is."""

from typing import Any

from pydantic import BaseModel

from service.dialects.dialect import DialectRoute

_RERANK_PATHS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("/rerank", ("", "/v1", "/v2"), "rerank"),
    ("/reranking", ("", "/v1"), "reranking"),
    ("/providers/cohere/v2/rerank", ("",), "rerank_azure"),
    ("/compatible-api/v1/reranks", ("",), "rerank_dashscope_compatible"),
)
"""Each without its version, the prefixes under which it is served, and the name of its operation."""


def shared_routes(
    *, description: str, request: type[BaseModel], answer: Any, error: Any, **more: Any
) -> tuple[DialectRoute, ...]:
    """A dialect's routes on the shared paths. more: further fields of the routes."""
    return tuple(
        DialectRoute(
            path=path,
            prefixes=prefixes,
            name=name,
            summary="Rank documents",
            description=description,
            request=request,
            answer=answer,
            error=error,
            **more,
        )
        for path, prefixes, name in _RERANK_PATHS
    )
