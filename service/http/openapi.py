"""The API description. The service writes it itself, because its endpoints parse bodies and write answers without FastAPI."""

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import TypeAdapter

from service.dialects.error_bodies import ErrorBody
from service.errors import ServiceError
from service.http.affinity import AFFINITY_PARAMETER, REPLICA_HEADER
from service.http.deadline import DEGRADED_HEADER, TIMEOUT_HEADER
from service.http.rate_limits import RATE_LIMIT_HEADER, RATE_LIMIT_POLICY_HEADER
from service.http.route_table import Door, Operation, Route, RouteTable
from service.http.skipped import SKIPPED_HEADER, SKIPPED_HEADER_DESCRIPTION
from service.records import DOCUMENT_ID
from service.time_limits import MAX_TIMEOUT_MS

_COMPONENTS = "#/components/"
_JSON, _MULTIPART = "application/json", "multipart/form-data"

_STATUSES: Mapping[Door, Collection[int]] = {"admitted": (401, 413, 429, 500, 503), "keyed": (401, 500), "open": (500,)}
"""Of errors before and around the endpoint: key, limits, faults."""

_RERANK_STATUSES = (400, 404, 408, 415, 422, 504)

_RESPONSES: Mapping[int, str] = {
    200: "The answer.",
    202: "The document is stored, and its pages are being processed.",
    204: "The document is deleted.",
    304: "The client has the answer already.",
    400: "The body cannot be parsed, or a field has a wrong type or value.",
    401: "The API key is missing or wrong.",
    404: "No registered document has this id.",
    408: "The body did not arrive in time.",
    413: "A limit of size or number is exceeded.",
    415: "The content type, or the kind of a document, is not taken.",
    422: "A document cannot be turned into pages.",
    429: "Too many requests are being worked on or waiting. Try again after the seconds of `Retry-After`.",
    500: "A fault of the service. Quote the request id when you report it.",
    503: "The service is loading, shutting down or partly out of order. Try again after the seconds of `Retry-After`.",
    504: "The request was not finished in time.",
}

_TAGS = (
    {
        "name": "rerank",
        "description": "Rank pages by a query. Formats that share a path are told apart by the body's keys.",
    },
    {"name": "documents", "description": "Store documents under an id, so that requests can name them."},
    {"name": "operation", "description": "Probes and metrics."},
    {"name": "description", "description": "The model, its limits, and versions."},
)

_PATH_PARAMETERS: Sequence[Mapping[str, Any]] = (
    {
        "name": "id",
        "in": "path",
        "required": True,
        "description": "of a registered document",
        "schema": {"type": "string", "pattern": f"^{DOCUMENT_ID.pattern}$"},
        "example": "annual-report",
    },
    {
        "name": "page",
        "in": "path",
        "required": True,
        "description": "of the document, from 1",
        "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
        "example": 1,
    },
    {
        "name": "file",
        "in": "path",
        "required": True,
        "description": "of the playground",
        "schema": {"type": "string", "minLength": 1},
        "example": "app.js",
    },
    {
        "name": "model",
        "in": "path",
        "required": True,
        "description": "ignored: the loaded model answers; may contain slashes",
        "schema": {"type": "string", "minLength": 1},
        "example": "llama-nemotron-rerank-vl",
    },
)
_REQUEST_ID_PARAMETER: Mapping[str, Any] = {
    "name": "X-Request-Id",
    "in": "header",
    "required": False,
    "description": "the request's id in the answer and in log lines; for another one the service makes its own",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
}

_TIMEOUT_PARAMETER: Mapping[str, Any] = {
    "name": TIMEOUT_HEADER,
    "in": "header",
    "required": False,
    "description": "milliseconds from the arrival of the request until the answer; the smaller of this and "
    "`ziprerank.timeout_ms` holds",
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT_MS},
}

_SECURITY_SCHEMES: Mapping[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`, or the key alone"},
    "x_api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "api_key": {"type": "apiKey", "in": "header", "name": "api-key"},
}

_HEADERS: Mapping[str, Any] = {
    "X-Request-Id": {"description": "id of the request", "schema": {"type": "string"}},
    REPLICA_HEADER: {"description": "name of the process that answered", "schema": {"type": "string"}},
    DEGRADED_HEADER: {
        "description": "present where the time was too short: the parts of the ranking that were given up, such as "
        "`keep_ratio=0.31, ranked_pages=20/60`",
        "schema": {"type": "string"},
    },
    SKIPPED_HEADER: {"description": SKIPPED_HEADER_DESCRIPTION, "schema": {"type": "string"}},
    "Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 0}},
    RATE_LIMIT_POLICY_HEADER: {
        "description": "limits of the API key, where it has some: pages a minute, requests at once",
        "schema": {"type": "string"},
        "example": '"pages";q=600;w=60, "requests";q=8;qu="concurrent-requests"',
    },
    RATE_LIMIT_HEADER: {
        "description": "what is left of them (r), and the seconds until all of it is there again (t)",
        "schema": {"type": "string"},
        "example": '"pages";r=400;t=20, "requests";r=7',
    },
    "WWW-Authenticate": {"description": "how to send the key", "schema": {"type": "string"}},
}
_HEADERS_OF_ALL = ("X-Request-Id", REPLICA_HEADER)
_RATE_LIMITS = (RATE_LIMIT_POLICY_HEADER, RATE_LIMIT_HEADER)
_HEADERS_OF_STATUSES = {
    200: _RATE_LIMITS,
    401: ("WWW-Authenticate",),
    429: ("Retry-After", *_RATE_LIMITS),
    503: ("Retry-After",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationDescription:
    """One operation, in as far as its route does not say it. Types are those of JSON bodies; None: not described."""

    summary: str
    text: str
    status: int = 200  # of the answer
    answer: Any = None
    answer_content: Mapping[str, Any] | None = None  # bodies of the answer that are not JSON, by media type
    error: Any = ErrorBody
    other_answers: Collection[int] = ()  # statuses of answers without a body that are no errors
    answer_headers: Collection[str] = ()  # of the answer, beside those of all responses
    statuses: Collection[int] = ()  # of errors that the endpoint itself raises
    parameters: Sequence[Mapping[str, Any]] = ()
    requests: Sequence[Any] = ()  # types of a JSON body
    request_content: Mapping[str, Any] = field(default_factory=dict)  # other bodies of the request, by media type
    examples: Collection[str] = ()  # of JSON bodies, by name

    @property
    def takes_body(self) -> bool:
        return bool(self.requests or self.request_content)


def describe_api(
    app: FastAPI,
    routes: RouteTable,
    descriptions: Mapping[str, OperationDescription],
    *,
    is_key_required: bool,
    root_path: str = "",
) -> None:
    """Have the application describe the routes of the table. The description is made when it is first asked for.

    descriptions: of the routes without a dialect, by the name of the route. is_key_required: whether keys are configured.
    root_path: under which clients reach the paths.
    Raises KeyError, when the description is made, where one is missing.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            operations = [
                (route, _describe_dialects(route) if route.operations else descriptions[route.name])
                for route in routes.routes
            ]
            app.openapi_schema = {
                "openapi": app.openapi_version,
                "info": {"title": app.title, "version": app.version, "description": app.description},
                **({"servers": [{"url": root_path}]} if root_path else {}),
                "tags": list(_TAGS),
                **_Writer(operations, is_key_required=is_key_required).write(),
            }
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's way to replace the description


def _describe_dialects(route: Route) -> OperationDescription:
    """The path of one or several dialects."""
    first = route.operations[0].route
    described = [operation.route for operation in route.operations]
    forms = [each.form for each in described if each.form is not None]
    return OperationDescription(
        summary=first.summary or route.name,
        text="\n".join(_sentences(route.operations)),
        answer=_union(each.answer for each in described),
        error=_union(each.error for each in described),
        answer_headers=[SKIPPED_HEADER, DEGRADED_HEADER],
        statuses=_RERANK_STATUSES,
        parameters=[AFFINITY_PARAMETER, _TIMEOUT_PARAMETER],
        requests=_distinct(each.request for each in described),
        request_content={_MULTIPART: {"schema": dict(forms[0])}} if forms else {},
        examples=[name for each in described for name in each.examples or ()],
    )


def _sentences(operations: Sequence[Operation]) -> Iterator[str]:
    """The description of the first dialect, and a line for each of the others."""
    first, *others = (operation.route for operation in operations)
    yield first.description
    if others:
        yield "\nThe body's keys say which format it has:\n"
    for route in others:
        name = f"`{route.request.__name__}`: " if route.request else ""
        yield f"- {name}{route.description}"


class _Writer:
    """Writes paths and components of the description."""

    def __init__(self, operations: Sequence[tuple[Route, OperationDescription]], *, is_key_required: bool) -> None:
        self._operations = operations
        keys: list[dict[str, list[str]]] = [{name: []} for name in _SECURITY_SCHEMES]
        self._security = keys if is_key_required else [{}, *keys]
        self._bodies, self._schemas = _schemas_of(operations)

    def write(self) -> dict[str, Any]:
        paths: dict[str, dict[str, Any]] = {}
        for route, description in self._operations:
            for path, name in zip(route.paths, route.operation_names, strict=True):
                operations = paths.setdefault(path.replace(":path}", "}"), {})
                operations[route.method.lower()] = self._operation(route, path, name, description)
        components = {
            "schemas": self._schemas,
            "examples": _examples_of([route for route, _ in self._operations]),
            "headers": _HEADERS,
            "securitySchemes": _SECURITY_SCHEMES,
        }
        return {"paths": paths, "components": components}

    def _operation(self, route: Route, path: str, name: str, description: OperationDescription) -> dict[str, Any]:
        in_path = [each for each in _PATH_PARAMETERS if f"{{{each['name']}" in path]
        operation = {
            "tags": [route.group],
            "summary": description.summary,
            "description": description.text,
            "operationId": name,
            "security": [] if route.door == "open" else self._security,
            "parameters": [*in_path, *description.parameters, _REQUEST_ID_PARAMETER],
            "responses": dict(self._responses(route, description)),
        }
        if description.takes_body:
            operation["requestBody"] = {"required": True, "content": self._request_content(description)}
        return operation

    def _request_content(self, description: OperationDescription) -> dict[str, Any]:
        content = dict(description.request_content)
        if description.requests:
            schemas = [self._bodies[request, "validation"] for request in description.requests]
            of_json = content[_JSON] = {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}
            if description.examples:
                of_json["examples"] = {name: _reference("examples", name) for name in description.examples}
        return content

    def _responses(self, route: Route, description: OperationDescription) -> Iterator[tuple[str, Any]]:
        content = self._json_content(description.answer)
        if description.answer_content is not None:
            content = {"content": description.answer_content}
        head = _response_head(description.status, headers=description.answer_headers)
        yield str(description.status), {**head, **content}
        for other in description.other_answers:
            yield str(other), _response_head(other)
        for status in sorted({*_STATUSES[route.door], *description.statuses}):
            codes = ", ".join(f"`{code}`" for code in _codes_of(status))
            head = _response_head(status, more=f" `code`: {codes}.")
            yield str(status), {**head, **self._json_content(description.error)}

    def _json_content(self, body: Any) -> dict[str, Any]:
        return {} if body is None else {"content": {_JSON: {"schema": self._bodies[body, "serialization"]}}}


_Mode = Literal["validation", "serialization"]


def _schemas_of(
    operations: Iterable[tuple[Route, OperationDescription]],
) -> tuple[Mapping[tuple[Any, _Mode], Any], Mapping[str, Any]]:
    """The schema of each body by its type and use, and the schemas that they refer to by name."""
    bodies: dict[tuple[Hashable, _Mode], TypeAdapter[Any]] = {}
    for _, description in operations:
        for body in (description.answer, description.error):
            if body is not None and (body, "serialization") not in bodies:
                bodies[body, "serialization"] = TypeAdapter(body)
        for body in description.requests:
            if (body, "validation") not in bodies:
                bodies[body, "validation"] = TypeAdapter(body)
    inputs = [(body, mode, adapter) for (body, mode), adapter in bodies.items()]
    schemas, shared = TypeAdapter.json_schemas(inputs, ref_template=_COMPONENTS + "schemas/{model}")
    return schemas, shared.get("$defs", {})


def _examples_of(routes: Iterable[Route]) -> dict[str, Any]:
    """Bodies by name. Raises: RuntimeError where two differ."""
    examples: dict[str, Any] = {}
    for route in routes:
        for operation in route.operations:
            for name, value in (operation.route.examples or {}).items():
                example = {"summary": name.replace("_", " "), "value": value}
                if examples.setdefault(name, example) != example:
                    raise RuntimeError(f"Two examples have the name {name}; rename one of them.")
    return examples


def _response_head(status: int, *, more: str = "", headers: Collection[str] = ()) -> dict[str, Any]:
    names = (*_HEADERS_OF_ALL, *_HEADERS_OF_STATUSES.get(status, ()), *headers)
    return {"description": _RESPONSES[status] + more, "headers": {name: _reference("headers", name) for name in names}}


def _reference(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"{_COMPONENTS}{kind}/{name}"}


def _codes_of(status: int) -> list[str]:
    return sorted({code for kind in ServiceError.__subclasses__() if kind.status == status for code in kind.codes})


def _distinct(types: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(each for each in types if each is not None))


def _union(types: Iterable[Any]) -> Any:
    """None where all are None."""
    distinct = _distinct(types)
    return reduce(or_, distinct) if distinct else None
