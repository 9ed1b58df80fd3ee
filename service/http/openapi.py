"""The API description of routes whose bodies the service parses itself: FastAPI sees no model of them."""

from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import Any

from fastapi import FastAPI

from service.http.affinity import AFFINITY_PARAMETER
from service.http.route_table import Route, RouteTable

_SCHEMAS = "#/components/schemas/"
_ID_PARAMETER = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "title": "Id"}}
_ERROR_STATUSES = (400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)


def describe_operation(route: Route) -> dict[str, Any]:
    """Bodies and parameters of a path of dialects, in the form of FastAPI's `openapi_extra`."""
    content: dict[str, Any] = {}
    requests = _distinct(operation.route.request for operation in route.operations)
    if requests:
        content["application/json"] = {"schema": _any_of([{"$ref": _SCHEMAS + each.__name__} for each in requests])}
    examples = {
        name: {"value": value}
        for operation in route.operations
        for name, value in (operation.route.examples or {}).items()
    }
    if examples:
        content["application/json"]["examples"] = examples
    for operation in route.operations:
        if operation.route.form is not None:
            content["multipart/form-data"] = {"schema": dict(operation.route.form)}
    parameters = [_ID_PARAMETER, AFFINITY_PARAMETER] if "{id}" in route.path else [AFFINITY_PARAMETER]
    return {"parameters": parameters, **({"requestBody": {"required": True, "content": content}} if content else {})}


def describe_responses(route: Route) -> dict[int | str, dict[str, Any]]:
    """Bodies of the answers and errors of a path of dialects, in the form of FastAPI's `responses`."""
    responses: dict[int | str, dict[str, Any]] = {}
    if answers := _distinct(operation.route.answer for operation in route.operations):
        responses[200] = {"model": _union(answers)}
    if errors := _distinct(operation.route.error for operation in route.operations):
        responses |= {status: {"model": _union(errors)} for status in _ERROR_STATUSES}
    return responses


def _distinct(types: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(each for each in types if each is not None))


def _any_of(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _union(types: list[Any]) -> Any:
    return reduce(or_, types)


def add_request_schemas(app: FastAPI, routes: RouteTable) -> None:
    """Add the schemas that `describe_operation` refers to when the description is made."""
    generate = app.openapi
    models = _distinct(operation.route.request for route in routes.routes for operation in route.operations)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schemas = generate().setdefault("components", {}).setdefault("schemas", {})
            for model in models:
                described = model.model_json_schema(ref_template=_SCHEMAS + "{model}")
                for name, schema in {**described.pop("$defs", {}), model.__name__: described}.items():
                    if schemas.setdefault(name, schema) != schema:
                        raise RuntimeError(
                            f"Two dialects have different schemas of the name {name}; rename one of the models."
                        )
        assert app.openapi_schema is not None, "FastAPI keeps the description that it has made"
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's way to change the description
