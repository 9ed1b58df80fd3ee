"""Registers the functions that answer requests under the routes of the table, and refuses a router with others."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from starlette.routing import Route as StarletteRoute

from service.http.route_table import ROUTES, Route


def serve(router: APIRouter, route: Route, **description: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate the function that answers `route`; `description` is FastAPI's, for the API description."""

    def register(endpoint: Callable[..., Any]) -> Callable[..., Any]:
        for path in route.paths:
            router.add_api_route(path, endpoint, methods=[route.method], **description)
        return endpoint

    return register


def check_routes(router: APIRouter) -> None:
    """Raises RuntimeError where a router has other routes than those of the table: a forgotten one would escape admission."""
    found = {
        (method, route.path)
        for route in router.routes
        if isinstance(route, StarletteRoute)
        for method in route.methods or ()
    }
    expected = {(route.method, path) for route in ROUTES for path in route.paths}
    if found != expected:
        surplus, missing = sorted(found - expected), sorted(expected - found)
        raise RuntimeError(
            f"The routes differ from service.http.route_table: not in it {surplus}, not served {missing}."
        )
