"""Every HTTP route of the service, once: registration, admission, metrics, tracing and affinity read this table.

An application that serves a route which is not here does not start (`route_registration`). Knows no framework.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

Door = Literal["admitted", "keyed", "open"]
"""admitted: key, limits, log line and metrics; keyed: the key alone; open: for everybody, such as probes."""

_SEGMENT = "{id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path."""

    method: str
    path: str  # as FastAPI writes it: {id} stands for one segment; without a version
    prefixes: tuple[str, ...] = ("",)  # under which it is served: "" and "/v1"
    door: Door
    is_traced: bool = True

    @property
    def paths(self) -> tuple[str, ...]:
        """With their prefixes; each is the route's label in metrics, log lines and spans."""
        return tuple(prefix + self.path for prefix in self.prefixes)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRoute:
    """The route of one request."""

    route: Route
    label: str  # from a closed set, such as /v1/documents/{id}
    document_id: str | None = field(repr=False)  # from the path


_BOTH = ("", "/v1")

RERANK = Route(method="POST", path="/rerank", prefixes=_BOTH, door="admitted")
RERANK_DOCUMENT = Route(method="POST", path="/documents/{id}/rerank", prefixes=_BOTH, door="admitted")
PUT_DOCUMENT = Route(method="PUT", path="/documents/{id}", prefixes=_BOTH, door="admitted")
GET_DOCUMENT = Route(method="GET", path="/documents/{id}", prefixes=_BOTH, door="admitted")
DELETE_DOCUMENT = Route(method="DELETE", path="/documents/{id}", prefixes=_BOTH, door="admitted")
LIST_DOCUMENTS = Route(method="GET", path="/documents", prefixes=_BOTH, door="admitted")
LIVEZ = Route(method="GET", path="/livez", door="open", is_traced=False)
READYZ = Route(method="GET", path="/readyz", door="open", is_traced=False)
METRICS = Route(method="GET", path="/metrics", door="keyed", is_traced=False)
MODELS = Route(method="GET", path="/models", prefixes=("/v1",), door="keyed")
INFO = Route(method="GET", path="/info", door="keyed")

ROUTES = (
    RERANK,
    RERANK_DOCUMENT,
    PUT_DOCUMENT,
    GET_DOCUMENT,
    DELETE_DOCUMENT,
    LIST_DOCUMENTS,
    LIVEZ,
    READYZ,
    METRICS,
    MODELS,
    INFO,
)

_PATTERNS = tuple(
    (path, re.compile(re.escape(path).replace(re.escape(_SEGMENT), "([^/]+)")), route)
    for route in ROUTES
    for path in route.paths
)


def find_route(method: str, path: str) -> FoundRoute | None:
    """The route that a request is for; None for one that the service does not have."""
    for label, pattern, route in _PATTERNS:
        if route.method == method and (found := pattern.fullmatch(path)):
            return FoundRoute(route=route, label=label, document_id=found[1] if pattern.groups else None)
    return None


def find_document_id(path: str) -> str | None:
    """The id of a registered document in a path, whatever the method."""
    for _, pattern, _ in _PATTERNS:
        if pattern.groups and (found := pattern.fullmatch(path)):
            return found[1]
    return None


def is_open(path: str) -> bool:
    """Whether a path is for callers without a key, whatever the method."""
    return any(route.door == "open" and path in route.paths for route in ROUTES)


def is_traced(path: str) -> bool:
    return all(route.is_traced or path not in route.paths for route in ROUTES)
