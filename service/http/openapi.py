"""The API description of routes whose bodies the service parses itself: FastAPI sees no model of them."""

from typing import Any

from fastapi import FastAPI

from service.dialects.dialect import DialectRoute
from service.http.affinity import AFFINITY_PARAMETER
from service.http.route_table import RouteTable

_SCHEMAS = "#/components/schemas/"
_ID_PARAMETER = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "title": "Id"}}


def describe_operation(operation: DialectRoute) -> dict[str, Any]:
    """Bodies and parameters of a dialect's route, in the form of FastAPI's `openapi_extra`."""
    content: dict[str, Any] = {}
    if operation.request is not None:
        content["application/json"] = {"schema": {"$ref": _SCHEMAS + operation.request.__name__}}
    if operation.form is not None:
        content["multipart/form-data"] = {"schema": dict(operation.form)}
    parameters = [_ID_PARAMETER, AFFINITY_PARAMETER] if "{id}" in operation.path else [AFFINITY_PARAMETER]
    return {"parameters": parameters, **({"requestBody": {"required": True, "content": content}} if content else {})}


def add_request_schemas(app: FastAPI, routes: RouteTable) -> None:
    """Add the schemas that `describe_operation` refers to when the description is made."""
    generate = app.openapi
    operations = [route.operation for route in routes.routes if route.operation is not None]
    models = [operation.request for operation in operations if operation.request is not None]

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
