"""One table of routes: every route that is served is in it, and admission, labels, affinity and tracing follow from it."""

from collections.abc import Sequence

import pytest
from fastapi import APIRouter, FastAPI

from model import RankingModel
from service.app import build_app
from service.http.route_registration import check_routes, serve
from service.http.route_table import ROUTES, Route, find_document_id, find_route, is_open, is_traced
from service.settings import Settings


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return build_app(Settings(), load=_load_nothing)


def _load_nothing(settings: Settings) -> RankingModel:
    raise AssertionError("the application is not started")


def test_the_application_serves_the_routes_of_the_table_and_no_others(app: FastAPI) -> None:
    described = {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}
    assert described == {(route.method, path) for route in ROUTES for path in route.paths}


def test_every_route_that_takes_a_body_is_admitted() -> None:
    assert {route.door for route in ROUTES if route.method not in ("GET", "HEAD")} == {"admitted"}


def router_of(routes: Sequence[Route]) -> APIRouter:
    router = APIRouter()
    for route in routes:
        serve(router, route)(lambda: None)
    return router


def test_a_route_that_is_missing_from_the_table_keeps_the_application_from_being_built() -> None:
    """Else it would be served without admission, a log line and metrics."""
    check_routes(router_of(ROUTES))
    forgotten = Route(method="POST", path="/v2/rerank", door="admitted")
    with pytest.raises(RuntimeError, match=r"not in it \[\('POST', '/v2/rerank'\)\], not served \[\]"):
        check_routes(router_of([*ROUTES, forgotten]))


def test_a_route_that_nobody_answers_keeps_the_application_from_being_built() -> None:
    with pytest.raises(RuntimeError, match=r"not in it \[\], not served \[\('GET', '/info'\)\]"):
        check_routes(router_of(ROUTES[:-1]))


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_request_finds_its_route_and_label(route: Route) -> None:
    for path in route.paths:
        found = find_route(route.method, path.replace("{id}", "a%2Fb.pdf"))
        assert found is not None and found.route is route and found.label == path
        assert found.document_id == ("a%2Fb.pdf" if "{id}" in path else None)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/rerank"), ("POST", "/reranks"), ("POST", "/v1/v1/rerank"), ("PUT", "/documents/"), ("GET", "/models")],
)
def test_other_requests_find_none(method: str, path: str) -> None:
    assert find_route(method, path) is None


def test_ids_are_found_whatever_the_method_and_stay_within_one_segment() -> None:
    assert find_document_id("/v1/documents/a/rerank") == find_document_id("/documents/a") == "a"
    assert find_document_id("/documents/a/b") is None
    assert find_document_id("/rerank") is None


def test_probes_alone_are_open_and_untraced() -> None:
    assert [path for path in ("/livez", "/readyz", "/metrics", "/info", "/rerank") if is_open(path)] == [
        "/livez",
        "/readyz",
    ]
    assert not is_traced("/metrics") and is_traced("/info") and is_traced("/unknown")


def test_a_new_route_is_registered_with_every_prefix() -> None:
    router, new = APIRouter(), Route(method="POST", path="/v2/rerank", prefixes=("", "/api"), door="admitted")
    serve(router, new)(lambda: None)
    assert [getattr(route, "path", None) for route in router.routes] == ["/v2/rerank", "/api/v2/rerank"]
