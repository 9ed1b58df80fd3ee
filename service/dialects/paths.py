"""Paths that several dialects share: the keys of the body say whose a request is."""

from typing import Any

from pydantic import BaseModel

from service.dialects.dialect import DialectRoute

_RERANK_PATHS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("/rerank", ("", "/v1", "/v2")),
    ("/reranking", ("", "/v1")),
    ("/providers/cohere/v2/rerank", ("",)),  # Azure
    ("/compatible-api/v1/reranks", ("",)),  # DashScope
)
"""Each without its version, and the prefixes under which it is served."""


def shared_routes(
    name: str, *, description: str, request: type[BaseModel], answer: Any, error: Any, **more: Any
) -> tuple[DialectRoute, ...]:
    """A dialect's routes on the shared paths. name: of the dialect. more: further fields of the routes."""
    return tuple(
        DialectRoute(
            path=path,
            prefixes=prefixes,
            name=f"{name}{path.replace('/', '_')}",
            description=description,
            request=request,
            answer=answer,
            error=error,
            **more,
        )
        for path, prefixes in _RERANK_PATHS
    )
