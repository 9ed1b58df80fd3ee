"""The routes of the service in one table, which registration, admission, metrics, tracing, affinity and OpenAPI read.

Independent of the web framework. An application that serves other routes than its table's cannot be built: see
`route_registration`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from service.dialects.dialect import Dialect, DialectRoute
from service.dialects.ziprerank import ZipRerankDialect

Door = Literal["admitted", "keyed", "open"]
"""admitted: with key, limits, log line and metrics; keyed: with the key alone; open: without a key."""

NATIVE: Dialect = ZipRerankDialect()
"""The format of routes and errors that belong to no other dialect."""

_SEGMENT = "{id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path."""

    method: str
    path: str  # as FastAPI writes it: {id} stands for one segment; without a version
    prefixes: tuple[str, ...] = ("",)  # under which it is served: "" and "/v1"
    door: Door
    is_traced: bool = True
    dialect: Dialect = NATIVE  # writes the route's errors; its name is a label in metrics
    operation: DialectRoute | None = None  # where the dialect also reads and answers the requests

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

PUT_DOCUMENT = Route(method="PUT", path="/documents/{id}", prefixes=_BOTH, door="admitted")
GET_DOCUMENT = Route(method="GET", path="/documents/{id}", prefixes=_BOTH, door="admitted")
DELETE_DOCUMENT = Route(method="DELETE", path="/documents/{id}", prefixes=_BOTH, door="admitted")
LIST_DOCUMENTS = Route(method="GET", path="/documents", prefixes=_BOTH, door="admitted")
LIVEZ = Route(method="GET", path="/livez", door="open", is_traced=False)
READYZ = Route(method="GET", path="/readyz", door="open", is_traced=False)
METRICS = Route(method="GET", path="/metrics", door="keyed", is_traced=False)
MODELS = Route(method="GET", path="/models", prefixes=("/v1",), door="keyed")
INFO = Route(method="GET", path="/info", door="keyed")

FIXED_ROUTES = (
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
"""Routes of every service, with any dialects."""


class RouteTable:
    """Finds the route of a request by method and path. Immutable."""

    def __init__(self, routes: Sequence[Route]) -> None:
        """Raises ValueError where two routes share a method and a path."""
        self.routes = tuple(routes)
        self._patterns = tuple((path, _pattern_of(path), route) for route in self.routes for path in route.paths)
        served = [(route.method, path) for path, _, route in self._patterns]
        if twice := sorted({each for each in served if served.count(each) > 1}):
            raise ValueError(f"Two routes share a method and a path: {twice}.")
        self._open_paths = frozenset(path for path, _, route in self._patterns if route.door == "open")
        self._untraced_paths = frozenset(path for path, _, route in self._patterns if not route.is_traced)

    @classmethod
    def of_dialects(cls, dialects: Sequence[Dialect]) -> "RouteTable":
        """The fixed routes and one for each route of the dialects. Raises: ValueError."""
        operations = [(dialect, operation) for dialect in dialects for operation in dialect.routes]
        rerank_routes = [
            Route(
                method="POST",
                path=operation.path,
                prefixes=operation.prefixes,
                door="admitted",
                dialect=dialect,
                operation=operation,
            )
            for dialect, operation in operations
        ]
        return cls([*rerank_routes, *FIXED_ROUTES])

    def find(self, method: str, path: str) -> FoundRoute | None:
        """The route of a request; None where the service has none."""
        for label, pattern, route in self._patterns:
            if route.method == method and (found := pattern.fullmatch(path)):
                return FoundRoute(route=route, label=label, document_id=found[1] if pattern.groups else None)
        return None

    def document_id(self, path: str) -> str | None:
        """The id of a registered document in a path, for any method."""
        for _, pattern, _ in self._patterns:
            if pattern.groups and (found := pattern.fullmatch(path)):
                return found[1]
        return None

    def is_open(self, path: str) -> bool:
        """Whether a path needs no key, for any method."""
        return path in self._open_paths

    def is_traced(self, path: str) -> bool:
        """Whether requests for a path get a server span. Unknown paths do."""
        return path not in self._untraced_paths


def _pattern_of(path: str) -> re.Pattern[str]:
    return re.compile(re.escape(path).replace(re.escape(_SEGMENT), "([^/]+)"))
