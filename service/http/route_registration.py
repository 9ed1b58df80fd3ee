"""Registers endpoints under the routes of the table, and refuses a router with other routes."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from starlette.routing import Route as StarletteRoute

from service.http.route_table import Route, RouteTable


def serve(router: APIRouter, route: Route, endpoint: Callable[..., Any], **description: Any) -> None:
    """Register the endpoint under every path of the route; `description` is FastAPI's, for the API description."""
    for path in route.paths:
        router.add_api_route(path, endpoint, methods=[route.method], **description)


def check_routes(router: APIRouter, table: RouteTable) -> None:
    """Raises RuntimeError where the router's routes differ from the table's: a forgotten one would escape admission."""
    found = {
        (method, route.path)
        for route in router.routes
        if isinstance(route, StarletteRoute)
        for method in route.methods or ()
    }
    expected = {(route.method, path) for route in table.routes for path in route.paths}
    if found != expected:
        surplus, missing = sorted(found - expected), sorted(expected - found)
        raise RuntimeError(f"The router differs from the table of routes: not in it {surplus}, not served {missing}.")
