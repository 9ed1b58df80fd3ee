"""One table of routes: every route that is served is in it, and admission, keys, labels and tracing follow from it."""

import json
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import product
from urllib.parse import unquote

import pytest
from fastapi import APIRouter
from fastapi.routing import iter_route_contexts

from model import RankingModel, Reranker
from service.app import build_app
from service.dialects import DIALECTS
from service.dialects.body import RequestBody
from service.dialects.dialect import DialectRoute
from service.dialects.ziprerank import ZipRerankDialect
from service.http.route_registration import check_routes, serve
from service.http.route_table import FIXED_ROUTES, Route, RouteTable
from service.settings import Settings
from tests.patience import PATIENCE_SECONDS
from tests.servers import fake_loader, running_service, settings_for_tests

TABLE = RouteTable.of_dialects(DIALECTS)
READINESS = {"/readyz", "/health", "/health_check", "/ping", "/.well-known/ready", "/v1/health/ready"}
PROBES = READINESS | {"/livez", "/.well-known/live", "/v1/health/live", "/v1/cluster/auth"}
OF_FASTAPI = {"/openapi.json", "/docs", "/docs/", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"}


def routes_of_the_application() -> list[tuple[str, str]]:
    """Method and path of every route of a built application, undescribed ones too."""
    app = build_app(settings_for_tests())
    return [
        (method, route.path)
        for route in iter_route_contexts(app.routes)
        for method in route.methods or ()
        if route.path is not None
    ]


def as_sent(path: str) -> str:
    """A path as a client sends it."""
    return path.replace("{id}", "report-7").replace("{page}", "3").replace("{model:path}", "nvidia/llama-rerank")


def endpoint() -> None:
    """Answers no request: these tests only register it."""


def router_of(routes: Sequence[Route]) -> APIRouter:
    router = APIRouter()
    for route in routes:
        serve(router, route, endpoint)
    return router


# The application against the table


def test_the_application_serves_the_routes_of_the_table_and_those_of_the_description() -> None:
    served = {(method, path) for method, path in routes_of_the_application() if path not in OF_FASTAPI}
    assert served == {(route.method, path) for route in TABLE.routes for path in route.paths}


def test_a_served_route_is_found_under_its_own_label() -> None:
    for method, path in routes_of_the_application():
        found = TABLE.find(method, as_sent(path))
        assert (found.label if found else None) == (None if path in OF_FASTAPI else path), f"{method} {path}"


def test_every_route_that_takes_a_body_or_belongs_to_documents_is_admitted() -> None:
    others = {path for route in TABLE.routes if route.door != "admitted" for path in route.paths}
    described = {"/metrics", "/v1/metrics", "/info", "/models", "/v1/models", "/meta", "/version"}
    described |= {"/models/{model:path}", "/v1/models/{model:path}"}
    assert others == PROBES | described
    assert {route.method for route in TABLE.routes if route.door != "admitted"} == {"GET"}


def test_every_route_asks_for_key_and_admission_as_the_table_says(reranker: Reranker) -> None:
    """Seen from outside: without a key, open routes answer; with the key, admitted ones are refused while the model loads."""
    may_load = threading.Event()

    def slow_load(settings: Settings) -> RankingModel:
        assert may_load.wait(PATIENCE_SECONDS)
        return fake_loader(reranker)(settings)

    with running_service(slow_load, wait=False, api_key="right") as service:
        key = {"authorization": "Bearer right"}
        for method, path in routes_of_the_application():
            found, name = TABLE.find(method, as_sent(path)), f"{method} {path}"
            door = found.route.door if found else "keyed"
            stranger = service.client.request(method, as_sent(path))
            assert (stranger.status_code == 401) == (door != "open"), name
            caller = service.client.request(method, as_sent(path), headers=key)
            code = caller.json()["code"] if method != "HEAD" and caller.status_code == 503 else None
            assert (code == "not_ready") == (door == "admitted" or path in READINESS), name
        may_load.set()


SUFFIXES = ("%0A", "%0D", "%00", "%7F", "%20", ";", ";a=b", "%2F%2E", "/.", "x", "//", "/%0A")


def test_a_path_that_differs_from_a_route_by_any_character_is_not_served(reranker: Reranker) -> None:
    """A route that the framework finds and the table does not would answer without admission, a log line and metrics."""
    with (
        running_service(fake_loader(reranker)) as service,
        closing(HTTPConnection("127.0.0.1", service.server.port)) as connection,  # which leaves paths as they are
    ):
        routes = {(route.method, path) for route in TABLE.routes for path in route.paths}
        for suffix, (method, path) in product(SUFFIXES, routes):
            sent = as_sent(path)
            for other in (
                sent + suffix,
                sent.upper() + suffix,
                f"/{sent}{suffix}",
                sent.replace("/", "/./", 1) + suffix,
            ):
                connection.request(method, other)
                with connection.getresponse() as response:
                    response.read()
                is_served = TABLE.find(method, TABLE.served_path(unquote(other))) is not None
                assert is_served or response.status in (404, 405), f"{method} {other}"


def test_a_route_that_is_missing_from_the_table_keeps_the_application_from_being_built() -> None:
    """It would be served without admission, a log line and metrics."""
    check_routes(router_of(TABLE.routes), TABLE)
    forgotten = Route(method="POST", path="/v9/rerank", name="rerank_v9", door="admitted", group="rerank")
    with pytest.raises(RuntimeError, match=r"not in it \[\('POST', '/v9/rerank'\)\], not served \[\]"):
        check_routes(router_of([*TABLE.routes, forgotten]), TABLE)


def test_a_route_without_an_endpoint_keeps_the_application_from_being_built() -> None:
    assert TABLE.routes[-1].path == "/version"
    with pytest.raises(RuntimeError, match=r"not in it \[\], not served \[\('GET', '/version'\)\]"):
        check_routes(router_of(TABLE.routes[:-1]), TABLE)


# The table


@pytest.mark.parametrize("route", TABLE.routes, ids=lambda route: f"{route.method} {route.path}")
def test_a_request_finds_its_route_and_label(route: Route) -> None:
    for path in route.paths:
        found = TABLE.find(route.method, as_sent(path).replace("report-7", "a%2Fb.pdf"))
        assert found is not None and found.route is route and found.label == path
        assert found.document_id == ("a%2Fb.pdf" if "{id}" in path else None)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/rerank"),
        ("POST", "/reranks"),
        ("POST", "/v1/v1/rerank"),
        ("PUT", "/documents/"),
        ("GET", "/v2/models"),
    ],
)
def test_other_requests_find_none(method: str, path: str) -> None:
    assert TABLE.find(method, path) is None


def test_ids_are_found_whatever_the_method_and_stay_within_one_segment() -> None:
    assert TABLE.document_id("/v1/documents/a/rerank") == TABLE.document_id("/documents/a") == "a"
    assert TABLE.document_id("/documents/a/b") is None
    assert TABLE.document_id("/rerank") is None


def test_probes_alone_are_open_and_untraced() -> None:
    paths = [path for route in TABLE.routes for path in route.paths]
    assert {path for path in paths if TABLE.is_open(path)} == PROBES
    assert {path for path in paths if not TABLE.is_traced(path)} == PROBES | {"/metrics", "/v1/metrics"}
    assert TABLE.is_traced("/unknown") and not TABLE.is_open("/unknown")


@dataclass(frozen=True)
class Shelf(ZipRerankDialect):
    """A dialect of two routes."""

    name: str = "shelf"
    routes: Sequence[DialectRoute] = (
        DialectRoute(path="/shelf", prefixes=("", "/api"), name="shelf", description="…"),
        DialectRoute(path="/shelves/{id}", name="one_shelf", description="…"),
    )


def test_each_route_of_a_dialect_is_an_admitted_route_of_the_table() -> None:
    table = RouteTable.of_dialects([Shelf()])
    for path in ("/shelf", "/api/shelf", "/shelves/{id}"):
        found = table.find("POST", as_sent(path))
        assert found is not None and (found.label, found.route.door) == (path, "admitted")
        assert found.route.dialect.name == "shelf"
    assert table.find("POST", "/rerank") is None
    assert table.routes[3:] == FIXED_ROUTES


def test_the_keys_of_a_body_choose_among_the_dialects_of_a_path() -> None:
    found = TABLE.find("POST", "/v1/rerank")
    assert found is not None and found.route.dialect.name == "ziprerank"
    bodies: dict[str, list[dict[str, object]]] = {
        "ziprerank": [{"documents": []}, {"documents": [], "top_k": 2, "top_n": 2}, {}, {"input": "x"}],
        "tei": [{"texts": []}],
        "nim": [{"passages": []}],
        "voyage": [{"documents": [], "top_k": 2}, {"documents": [], "truncation": True}],
        "sglang": [{"documents": [], "instruct": None}],
        "weaviate": [{"documents": [], "property": "body"}],
        "elastic": [{"input": [], "query": "q"}],
        "dashscope": [{"input": {}, "parameters": {}}],
    }
    for name, examples in bodies.items():
        for example in examples:
            body = RequestBody([json.dumps(example).encode()], content_type="")
            assert found.route.dialect_of(body).name == name, example
    form = RequestBody([b"--x--"], content_type="multipart/form-data; boundary=x")
    assert found.route.dialect_of(form).name == "ziprerank"


def test_a_path_of_one_dialect_takes_no_other() -> None:
    for path, name in (("/v1/ranking", "nim"), ("/score", "vllm_score"), ("/documents/a/rerank", "ziprerank")):
        found = TABLE.find("POST", path)
        body = RequestBody([b'{"texts": [], "documents": []}'], content_type="application/json")
        assert found is not None and found.route.dialect_of(body).name == name


def test_two_dialects_of_one_name_are_refused_on_a_path() -> None:
    with pytest.raises(ValueError, match="Two dialects of /shelf have one name"):
        RouteTable.of_dialects([Shelf(), Shelf()])


def test_a_slash_at_the_end_is_the_same_path() -> None:
    for path in ("/rerank", "/v1/models", "/documents/a/rerank"):
        assert TABLE.served_path(f"{path}/") == TABLE.served_path(path) == path
    for other in ("/", "/unknown/", "/rerank//"):
        assert TABLE.served_path(other) == other


def test_a_new_route_is_registered_with_every_prefix() -> None:
    new = Route(method="POST", path="/v2/rerank", name="again", prefixes=("", "/api"), door="admitted", group="rerank")
    router = APIRouter()
    serve(router, new, endpoint)
    assert [getattr(route, "path", None) for route in router.routes] == ["/v2/rerank", "/api/v2/rerank"]
    assert [getattr(route, "name", None) for route in router.routes] == ["again", "again_api"]


def test_two_routes_of_one_name_are_refused() -> None:
    one, other = (
        Route(method="POST", path=path, name="again", door="admitted", group="rerank") for path in ("/one", "/other")
    )
    with pytest.raises(ValueError, match=r"Two routes share a name: \['again'\]"):
        RouteTable([one, other])
