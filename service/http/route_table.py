"""The routes of the service in one table, which registration, admission, metrics, tracing, affinity and OpenAPI read.

Independent of the web framework. An application that serves other routes than its table's cannot be built: see
`route_registration`.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from service.dialects.body import RequestBody
from service.dialects.dialect import Dialect, DialectRoute
from service.dialects.ziprerank import ZipRerankDialect

Door = Literal["admitted", "keyed", "open"]
"""admitted: with key, limits, log line and metrics; keyed: with the key alone; open: without a key."""

Group = Literal["rerank", "documents", "operation", "description"]
"""A part of the API description."""

NATIVE: Dialect = ZipRerankDialect()
"""The format of routes and errors that belong to no other dialect."""

_SEGMENT, _SEGMENTS = re.compile(r"\\{(\w+)\\}"), re.compile(r"\\{(\w+):path\\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A dialect that reads and answers the requests of a path."""

    dialect: Dialect
    route: DialectRoute


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path."""

    method: str
    path: str  # as FastAPI writes it: {id} stands for one segment, {model:path} for several; without a version
    name: str  # of the operation in the API description, where generated clients have it as the name of a method
    prefixes: tuple[str, ...] = ("",)  # under which it is served: "" and "/v1"
    door: Door
    group: Group
    is_traced: bool = True
    operations: tuple[Operation, ...] = ()  # of the dialects that take requests there; none: a route of the service

    @property
    def paths(self) -> tuple[str, ...]:
        """With their prefixes; each is the route's label in metrics, log lines and spans."""
        return tuple(prefix + self.path for prefix in self.prefixes)

    @property
    def operation_names(self) -> tuple[str, ...]:
        """Of each path: the name, with the prefix behind it, such as rerank_v1."""
        return tuple(self.name + _suffix_of(prefix) for prefix in self.prefixes)

    @property
    def dialect(self) -> Dialect:
        """Writes the errors until a body is recognised."""
        return self.operations[0].dialect if self.operations else NATIVE

    @property
    def media_types(self) -> tuple[str, ...]:
        """Content types that any of the dialects takes."""
        return tuple(dict.fromkeys(kind for each in self.operations for kind in each.dialect.media_types))

    def dialect_of(self, body: RequestBody) -> Dialect:
        """The dialect whose format a body has. Blocks for large bodies. Raises: MalformedBodyError, InvalidRequestError."""
        first, *others = (operation.dialect for operation in self.operations)
        if not others or not body.is_json:
            return first
        return next((dialect for dialect in others if dialect.recognises(body.fields)), first)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRoute:
    """The route of one request."""

    route: Route
    label: str  # from a closed set, such as /v1/documents/{id}
    document_id: str | None = field(repr=False)  # from the path


_BOTH = ("", "/v1")

PUT_DOCUMENT = Route(
    method="PUT", path="/documents/{id}", name="put_document", prefixes=_BOTH, door="admitted", group="documents"
)
GET_DOCUMENT = Route(
    method="GET", path="/documents/{id}", name="get_document", prefixes=_BOTH, door="admitted", group="documents"
)
DELETE_DOCUMENT = Route(
    method="DELETE", path="/documents/{id}", name="delete_document", prefixes=_BOTH, door="admitted", group="documents"
)
PAGE_IMAGE = Route(
    method="GET",
    path="/documents/{id}/pages/{page}/image",
    name="page_image",
    prefixes=_BOTH,
    door="admitted",
    group="documents",
)
LIST_DOCUMENTS = Route(
    method="GET", path="/documents", name="list_documents", prefixes=_BOTH, door="admitted", group="documents"
)


def _probe(path: str, name: str) -> Route:
    return Route(method="GET", path=path, name=name, door="open", group="operation", is_traced=False)


LIVEZ = _probe("/livez", "livez")
READYZ = _probe("/readyz", "readyz")
OTHER_READINESS = (
    _probe("/health", "health"),
    _probe("/health_check", "health_check"),
    _probe("/ping", "ping"),
    _probe("/.well-known/ready", "well_known_ready"),
)
"""vLLM's, TEI's and others' names of `/readyz`."""

WELL_KNOWN_LIVE = _probe("/.well-known/live", "well_known_live")
NIM_LIVE = _probe("/v1/health/live", "nim_live")
NIM_READY = _probe("/v1/health/ready", "nim_ready")
METRICS = Route(
    method="GET", path="/metrics", name="metrics", prefixes=_BOTH, door="keyed", group="operation", is_traced=False
)
MODELS = Route(method="GET", path="/models", name="models", prefixes=_BOTH, door="keyed", group="description")
MODEL = Route(
    method="GET", path="/models/{model:path}", name="model", prefixes=_BOTH, door="keyed", group="description"
)
XINFERENCE_AUTH = Route(
    method="GET", path="/v1/cluster/auth", name="xinference_auth", door="open", group="description", is_traced=False
)
INFO = Route(method="GET", path="/info", name="info", door="keyed", group="description")
WEAVIATE_META = Route(method="GET", path="/meta", name="weaviate_meta", door="keyed", group="description")
VERSION = Route(method="GET", path="/version", name="version", door="keyed", group="description")

PLAYGROUND = Route(
    method="GET", path="/playground", name="playground", door="open", group="description", is_traced=False
)
PLAYGROUND_FILE = Route(
    method="GET", path="/playground/{file}", name="playground_file", door="open", group="description", is_traced=False
)
PLAYGROUND_ROUTES = (PLAYGROUND, PLAYGROUND_FILE)
"""Of services whose setting `playground` is on."""

FIXED_ROUTES = (
    PUT_DOCUMENT,
    GET_DOCUMENT,
    DELETE_DOCUMENT,
    PAGE_IMAGE,
    LIST_DOCUMENTS,
    LIVEZ,
    READYZ,
    *OTHER_READINESS,
    WELL_KNOWN_LIVE,
    NIM_LIVE,
    NIM_READY,
    METRICS,
    MODELS,
    MODEL,
    XINFERENCE_AUTH,
    INFO,
    WEAVIATE_META,
    VERSION,
)
"""Routes of every service, with any dialects."""


class RouteTable:
    """Finds the route of a request by method and path. Immutable."""

    def __init__(self, routes: Sequence[Route]) -> None:
        """Raises ValueError where two routes share a method and a path, or a name."""
        self.routes = tuple(routes)
        served = [(route.method, path) for route in self.routes for path in route.paths]
        self._patterns = tuple((path, _pattern_of(path), route) for route in self.routes for path in route.paths)
        if twice := sorted({each for each in served if served.count(each) > 1}):
            raise ValueError(f"Two routes share a method and a path: {twice}.")
        names = [name for route in self.routes for name in route.operation_names]
        if shared := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"Two routes share a name: {shared}.")
        self._open = tuple(pattern for _, pattern, route in self._patterns if route.door == "open")
        self._untraced = tuple(pattern for _, pattern, route in self._patterns if not route.is_traced)

    @classmethod
    def of_dialects(cls, dialects: Sequence[Dialect], *, has_playground: bool = False) -> "RouteTable":
        """The fixed routes and one for each path of the dialects. Raises: ValueError."""
        operations: defaultdict[str, list[Operation]] = defaultdict(list)
        names: dict[str, str] = {}
        for dialect in dialects:
            for route in dialect.routes:
                for prefix in route.prefixes:
                    operations[prefix + route.path].append(Operation(dialect=dialect, route=route))
                    names.setdefault(prefix + route.path, route.name + _suffix_of(prefix))
        for path, shared in operations.items():
            of_dialects = [operation.dialect.name for operation in shared]
            if len(set(of_dialects)) < len(of_dialects):
                raise ValueError(f"Two dialects of {path} have one name: {of_dialects}.")
        rerank_routes = [
            Route(
                method="POST",
                path=path,
                name=names[path],
                door="admitted",
                group="rerank",
                operations=tuple(shared),
            )
            for path, shared in operations.items()
        ]
        playground = PLAYGROUND_ROUTES if has_playground else ()
        return cls([*rerank_routes, *playground, *FIXED_ROUTES])

    def find(self, method: str, path: str) -> FoundRoute | None:
        """The route of a request; None where the service has none."""
        for label, pattern, route in self._patterns:
            if route.method == method and (found := pattern.fullmatch(path)):
                return FoundRoute(route=route, label=label, document_id=found.groupdict().get("id"))
        return None

    def served_path(self, path: str) -> str:
        """The path less a slash at its end, where the service has that path and not this one."""
        shorter = path.removesuffix("/")
        is_other = shorter != path and not self._is_served(path) and self._is_served(shorter)
        return shorter if is_other else path

    def _is_served(self, path: str) -> bool:
        return any(pattern.fullmatch(path) for _, pattern, _ in self._patterns)

    def document_id(self, path: str) -> str | None:
        """The id of a registered document in a path, for any method."""
        for _, pattern, _ in self._patterns:
            if "id" in pattern.groupindex and (found := pattern.fullmatch(path)):
                return found["id"]
        return None

    def is_open(self, path: str) -> bool:
        """Whether a path needs no key, for any method."""
        return any(pattern.fullmatch(path) for pattern in self._open)

    def is_traced(self, path: str) -> bool:
        """Whether requests for a path get a server span. Unknown paths do."""
        return not any(pattern.fullmatch(path) for pattern in self._untraced)


def _suffix_of(prefix: str) -> str:
    return prefix.replace("/", "_")


def _pattern_of(path: str) -> re.Pattern[str]:
    several = _SEGMENTS.sub(r"(?P<\1>.+)", re.escape(path))
    return re.compile(_SEGMENT.sub(r"(?P<\1>[^/]+)", several))
