"""A wire format of rerank requests: its routes, and how bodies are read, answers and errors written.

A new dialect is one module with an object of this shape, listed in `DIALECTS` (`service.dialects`). Admission, metrics, log
lines, tracing and the API description follow from its routes. Several dialects may list one path: the keys of the body then
say whose it is (`recognises`), and the first dialect of the list takes the others. Knows no web framework.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from service.dialects.body import RequestBody
from service.errors import ServiceError
from service.records import RerankAnswer, RerankQuery, ScoreKind


@dataclass(frozen=True, slots=True, kw_only=True)
class DialectRoute:
    """A path under which a dialect takes POST requests. The types are for the API description alone."""

    path: str  # {id} stands for one segment, {name:path} for several; without a version
    prefixes: tuple[str, ...] = ("",)  # under which it is served, such as "" and "/v1"
    name: str  # of the operation; dialects that share a path give it one name
    summary: str = ""  # a few words; empty: the name
    description: str
    request: type[BaseModel] | None = None  # a body of JSON
    form: Mapping[str, Any] | None = None  # JSON schema of a body of multipart/form-data
    answer: Any = None  # the type that `write` returns
    error: Any = None  # the type that `error` returns
    examples: Mapping[str, Any] | None = None  # bodies of JSON; a name stands for one body on all routes


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    """The parts of a request that a dialect reads beside the body, and the configured values."""

    path: str  # of the route, such as /v1/rerank
    path_id: str | None  # the {id} of the route's path
    max_documents: int
    max_uploads: int  # documents that carry their content
    default_score: ScoreKind | None = None  # None: by the dialect
    fetches_urls: bool = False


class Dialect(Protocol):
    """One wire format. `read` runs in threads, several at once; `write` and `error` on the event loop, so they must be fast."""

    @property
    def name(self) -> str:
        """Label in metrics and spans."""
        ...

    @property
    def routes(self) -> Sequence[DialectRoute]: ...

    @property
    def media_types(self) -> Sequence[str]:
        """Content types that `read` takes; others are refused before the body is received."""
        ...

    def recognises(self, fields: Mapping[str, Any]) -> bool:
        """Whether a JSON object is a body of this format. Asked only on paths that several dialects list."""
        ...

    def read(self, body: RequestBody, head: RequestHead) -> RerankQuery:
        """Raises: ServiceError."""
        ...

    def write(self, query: RerankQuery, answer: RerankAnswer) -> Any:
        """The body of the answer, of types that orjson takes."""
        ...

    def error(self, error: ServiceError, *, request_id: str, query: RerankQuery | None) -> Any:
        """The body of a failed request, of types that orjson takes. query: None where it could not be read."""
        ...
