"""What the door lets through uncounted: only what is small and answered at once."""

import threading

from fastapi.routing import iter_route_contexts

from model import RankingModel, Reranker
from service.app import build_app
from service.http.route_table import find_route
from service.settings import Settings
from tests.servers import PATIENCE_SECONDS, fake_loader, running_service, settings_for_tests

ANSWERED_AT_ONCE = {
    "/livez", "/readyz", "/metrics", "/info", "/v1/models", "/openapi.json", "/docs", "/docs/oauth2-redirect"
}  # fmt: skip


def routes() -> list[tuple[str, str]]:
    """Method and path of every route of the application, those without a description too."""
    app = build_app(settings_for_tests())
    found = [
        (method, route.path)
        for route in iter_route_contexts(app.routes)
        for method in route.methods or ()
        if route.path is not None
    ]
    assert {("POST", "/rerank"), ("PUT", "/v1/documents/{id}"), ("GET", "/livez")} <= set(found)
    return found


def asked(path: str) -> str:
    """A path as a client sends it."""
    return path.replace("{id}", "report-7")


def admitted_route(method: str, path: str) -> str | None:
    """Under which name a request is admitted and counted; None for what is just answered."""
    found = find_route(method, path)
    return found.label if found is not None and found.route.door == "admitted" else None


def test_every_route_is_admitted_under_its_own_name_but_for_what_is_answered_at_once() -> None:
    for method, path in routes():
        if path in ANSWERED_AT_ONCE:
            assert method in ("GET", "HEAD") and admitted_route(method, asked(path)) is None, path
        else:
            assert admitted_route(method, asked(path)) == path, f"{method} {path}"


def test_whatever_takes_a_body_is_refused_while_the_model_loads(reranker: Reranker) -> None:
    may_load = threading.Event()

    def slow_load(settings: Settings) -> RankingModel:
        assert may_load.wait(PATIENCE_SECONDS)
        return fake_loader(reranker)(settings)

    with running_service(slow_load, wait=False) as service:
        with_body = [(method, path) for method, path in routes() if method in ("POST", "PUT", "PATCH")]
        for method, path in with_body:
            refusal = service.client.request(method, asked(path), content=b"{}")
            assert (refusal.status_code, refusal.json()["code"]) == (503, "not_ready"), f"{method} {path}"
        may_load.set()
