"""The exchange around any application: ids, errors in the route's dialect, permits, and one log line a request."""

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api_keys import KeyRing
from service.dialects.dialect import DialectRoute
from service.dialects.ziprerank import ZipRerankDialect
from service.errors import OverloadedError, ServiceError
from service.http.admission import Admission, AdmissionLimits
from service.http.callers import Callers
from service.http.error_responses import JsonResponse
from service.http.exchange import ExchangeMiddleware
from service.http.rate_limits import RateLimits
from service.http.route_table import RouteTable
from service.inference.page_rates import PageRates
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.records import Caller, RerankQuery
from service.tracing import Tracing

KEY = {"authorization": "Bearer right"}


@dataclass(frozen=True)
class Terse(ZipRerankDialect):
    """Writes errors as their code alone."""

    name: str = "terse"
    routes: Sequence[DialectRoute] = (DialectRoute(path="/terse", name="terse", description="…"),)

    def error(self, error: ServiceError, *, request_id: str, query: RerankQuery | None) -> Any:
        return {"code": error.code, "query": query and query.text}


class Edge:
    """The middleware around `app`, with one place for one request."""

    def __init__(self, app: ASGIApp) -> None:
        lifecycle = Lifecycle()
        lifecycle.become_ready()
        self.metrics = Metrics()
        limits = AdmissionLimits(
            max_body_bytes=10,
            max_concurrent_requests=1,
            max_receiving_requests=1,
            max_in_flight_bytes=10,
            min_body_rate=1,
        )
        self.admission = Admission(lifecycle, limits)
        self._middleware = ExchangeMiddleware(
            app,
            routes=RouteTable.of_dialects([Terse()]),
            callers=Callers(keys=KeyRing(single="right"), cache_scope="shared"),
            admission=self.admission,
            limits=RateLimits(page_rates=PageRates(), admission=self.admission),
            metrics=self.metrics,
            tracing=Tracing("off", replica="gpu-0"),
            replica="gpu-0",
        )

    def request(self, method: str, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._middleware)
            async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
                return await client.request(method, path, headers=headers, content=b"{}" if method == "POST" else None)

        return asyncio.run(send())

    def counted(self, **labels: str) -> float:
        return self.metrics.registry.get_sample_value("ziprerank_requests_total", labels) or 0.0


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that shows the state which travels with the request."""
    state = scope["state"]
    shown = {"permit": "permit" in state, "caller": state["caller"].id if "caller" in state else None}
    await JsonResponse(shown)(scope, receive, send)


def failing(error: Exception, query: RerankQuery | None = None) -> ASGIApp:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["query"] = query
        raise error

    return fail


def test_caller_and_permit_travel_with_an_admitted_request_and_the_place_is_given_back() -> None:
    edge = Edge(answer)
    caller = "default"
    for _ in range(2):
        assert edge.request("POST", "/terse", KEY).json() == {"permit": True, "caller": caller}
    assert edge.request("GET", "/info", KEY).json() == {"permit": False, "caller": caller}
    assert edge.request("GET", "/livez").json() == {"permit": False, "caller": None}
    assert edge.admission.requests == edge.admission.body_bytes == 0


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(RuntimeError("at 0x7f00"), 500, "internal_error"), (OverloadedError("overloaded", "…"), 429, "overloaded")],
    ids=["a bug", "an error"],
)
def test_a_failure_is_written_by_the_dialect_of_the_route_with_the_query_as_far_as_it_was_read(
    error: Exception, status: int, code: str
) -> None:
    for query in (None, RerankQuery(text="locks", documents=())):
        edge = Edge(failing(error, query))
        response = edge.request("POST", "/terse", KEY)
        assert (response.status_code, response.json()) == (status, {"code": code, "query": query and "locks"})
        assert response.headers["x-request-id"] and response.headers["x-ziprerank-replica"] == "gpu-0"
        assert edge.admission.requests == 0
        assert edge.counted(route="/terse", dialect="terse", code=str(status)) == 1


def test_a_failure_on_a_route_without_a_dialect_has_the_native_body() -> None:
    body = Edge(failing(RuntimeError("at 0x7f00"))).request("GET", "/info", KEY).json()
    assert (body["code"], body["status"]) == ("internal_error", 500) and "0x7f00" not in json.dumps(body)


def test_a_refusal_is_written_by_the_dialect_of_the_route_and_takes_no_place() -> None:
    edge = Edge(answer)
    refusal = edge.request("POST", "/terse")
    assert (refusal.status_code, refusal.json()) == (401, {"code": "unauthorized", "query": None})
    assert refusal.headers["www-authenticate"] == "Bearer"
    edge.admission.admit(Headers(), Caller(id="", tenant=b""))
    assert edge.request("POST", "/terse", KEY).json()["code"] == "overloaded"
    assert edge.admission.requests == 1


def test_the_log_line_names_dialect_and_caller_and_never_the_key(caplog: pytest.LogCaptureFixture) -> None:
    edge = Edge(answer)
    with caplog.at_level(logging.INFO, logger="service.http.exchange"):
        edge.request("POST", "/terse", KEY)
        edge.request("POST", "/terse", {"authorization": "Bearer wrong"})
        edge.request("POST", "/terse")
        edge.request("GET", "/info", KEY)
    accepted, *refused = [record.getMessage() for record in caplog.records]
    assert "path=/terse status=200" in accepted and " dialect=terse " in accepted
    assert accepted.endswith(" caller=default")
    assert len(refused) == 2, "a line for each admitted request, and none for others"
    assert all("status=401" in line and "caller=" not in line for line in refused)
    assert "right" not in caplog.text and "wrong" not in caplog.text
