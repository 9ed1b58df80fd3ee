"""Registers endpoints under the routes of the table, and refuses a router with other routes."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from service.http.route_table import Route, RouteTable


def serve(router: APIRouter, route: Route, endpoint: Callable[..., Any]) -> None:
    """Register the endpoint under every path of the route. The service describes its routes itself: see `openapi`."""
    for path, name in zip(route.paths, route.operation_names, strict=True):
        router.add_api_route(path, endpoint, methods=[route.method], name=name, response_class=Response)


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
