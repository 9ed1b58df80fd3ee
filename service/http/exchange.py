"""Request in, response out: id, caller, permit, errors, replica header, and one log line and one set of metrics at the end.

Pure ASGI in front of the framework, so that a refusal costs little and disconnects stay visible to the endpoints.
"""

import asyncio
import logging
import re
import time
import uuid
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import InternalError, ServiceError
from service.http.admission import Admission
from service.http.affinity import REPLICA_HEADER, affinity_mark
from service.http.callers import Callers
from service.http.error_responses import error_response, http_error_response
from service.http.rate_limits import RateLimits
from service.http.route_table import NATIVE, FoundRoute, RouteTable
from service.logs import fields_line
from service.metrics import Metrics
from service.records import Caller
from service.tracing import Tracing

REQUEST_ID_HEADER = "X-Request-Id"

_LINGER_BYTES = 128 * 1024 * 1024
_LINGER_SECONDS = 5.0
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_CLIENT_CLOSED_REQUEST = 499
_METHODS_WITH_BODY = ("POST", "PUT")

logger = logging.getLogger(__name__)


class Exchange:
    """One request and its response. Remembers the response's status; adds id, replica and the key's limits to its headers.

    `scope["state"]` carries to the endpoint: request_id, route (FoundRoute), facts (for the log line), arrived_at (by the
    monotonic clock), and from admission on caller and permit. The endpoint sets the dialect, once it is recognised, and the
    query, once it is read.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, *, route: FoundRoute | None, replica: str, limits: RateLimits
    ) -> None:
        self.headers = Headers(scope=scope)
        sent_id = self.headers.get("x-request-id", "")
        self.address = (
            client[0] if (client := scope.get("client")) else ""
        )  # behind trusted proxies: the one that they saw
        self.request_id = sent_id if _REQUEST_ID.fullmatch(sent_id) else f"rerank-{uuid.uuid4().hex}"
        self.facts: dict[str, object] = {}
        self.state = {
            **scope.get("state", {}),
            "request_id": self.request_id,
            "route": route,
            "facts": self.facts,
            "arrived_at": time.monotonic(),
            "dialect": route.route.dialect if route is not None else NATIVE,
            "query": None,
        }
        self.scope: Scope = {**scope, "state": self.state}
        self.caller: Caller | None = None  # None until its key was checked
        self.status: int | None = None  # None until the response begins
        self.started = time.perf_counter()
        self._replica = replica
        self._limits = limits
        self._receive = receive
        self._send = send
        self._is_body_pending = scope["method"] not in ("GET", "HEAD")

    async def receive(self) -> Message:
        message = await self._receive()
        self._is_body_pending = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self._is_body_pending and self.headers.get("connection", "").lower() == "close":
                await self._discard_body()
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID_HEADER] = self.request_id
            headers[REPLICA_HEADER] = self._replica
            if self.caller is not None:
                headers.update(self._limits.headers(self.caller))
        elif not message.get("more_body", False) and (permit := self.state.get("permit")) is not None:
            permit.release()  # the work is done, and how fast the client reads is its own affair
        await self._send(message)

    async def refuse(self, error: ServiceError) -> None:
        """Send the error in the dialect of the request, or of the route where that is not known yet."""
        response = error_response(error, self.request_id, dialect=self.state["dialect"], query=self.state["query"])
        await response(self.scope, self.receive, self.send)

    async def _discard_body(self) -> None:
        """Receive the rest of the body, within bounds, before the connection is closed: closing it while the client still
        sends would reset it, and the client would never read the refusal. (On a connection that stays open the server
        discards the rest after the response.)"""
        left = _LINGER_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while self._is_body_pending and left > 0:
                    left -= len((await self.receive()).get("body", b""))


class ExchangeMiddleware:
    """Handles every HTTP request: those of admitted routes with permit, metrics and log line, others with the key alone."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        routes: RouteTable,
        callers: Callers,
        admission: Admission,
        limits: RateLimits,
        metrics: Metrics,
        tracing: Tracing,
        replica: str,
        root_path: str = "",
    ) -> None:
        """root_path: the path under which a proxy serves the service, whether or not the proxy takes it off."""
        self._app = app
        self._routes = routes
        self._callers = callers
        self._admission = admission
        self._limits = limits
        self._metrics = metrics
        self._tracing = tracing
        self._replica = replica
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = self._as_served(scope)
        route = self._routes.find(scope["method"], scope["path"])
        exchange = Exchange(scope, receive, send, route=route, replica=self._replica, limits=self._limits)
        if route is None and _CONTROL_CHARACTERS.search(scope["path"]):
            # The framework's patterns match a path with a newline at its end.
            response = http_error_response(HTTPException(404), exchange.request_id)
            await response(exchange.scope, exchange.receive, exchange.send)
            return
        if route is None or route.route.door != "admitted":
            try:
                if not self._routes.is_open(scope["path"]):
                    exchange.state["caller"] = exchange.caller = self._callers.identify(
                        exchange.headers, exchange.address
                    )
            except ServiceError as error:
                await exchange.refuse(error)
            else:
                await self._run(exchange)
            return
        self._describe(exchange, route)
        try:
            await self._admit_and_answer(exchange)
        finally:
            self._finish(exchange, route)

    def _as_served(self, scope: Scope) -> Scope:
        """The request as the routes know it: without the root path, a slash at the end of the path changes nothing, and HEAD
        is GET, whose body the server leaves out."""
        path = scope["path"]
        if self._root_path and path.startswith(f"{self._root_path}/"):
            path = path.removeprefix(self._root_path)
        path = self._routes.served_path(path)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        if path == scope["path"] and method == scope["method"]:
            return scope
        return {**scope, "path": path, "raw_path": path.encode(), "method": method}

    async def _admit_and_answer(self, exchange: Exchange) -> None:
        try:
            exchange.caller = caller = self._callers.identify(exchange.headers, exchange.address)
            if caller.id:
                exchange.facts["caller"] = caller.id
            reads_body = exchange.scope["method"] in _METHODS_WITH_BODY
            permit = self._admission.admit(exchange.headers, caller, reads_body=reads_body)
        except ServiceError as error:
            self._metrics.count_rejection(error.code)
            await exchange.refuse(error)
            return
        exchange.state["caller"], exchange.state["permit"] = caller, permit
        with permit:
            await self._run(exchange)

    async def _run(self, exchange: Exchange) -> None:
        """Send the application's response, or the error that it raised. A bug is a 500 without details; the log has them."""
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except ServiceError as error:  # endpoints raise before their response begins
            self._metrics.count_rejection(error.code)
            await exchange.refuse(error)
        except Exception:
            logger.exception("request %s failed", exchange.request_id)
            if exchange.status is not None:  # the response has begun and can only be cut off
                raise
            message = "Something went wrong on our side. Quote the request id when you report it."
            await exchange.refuse(InternalError("internal_error", message))

    def _describe(self, exchange: Exchange, route: FoundRoute) -> None:
        """Add replica and affinity to the log line, and name the server span."""
        scope = exchange.scope
        mark = affinity_mark(exchange.headers, self._routes.document_id(scope["path"]))
        exchange.facts["replica"] = self._replica
        if mark is not None:
            exchange.facts["affinity"] = mark
        has_query = bool(scope.get("query_string"))
        self._tracing.describe_server_span(scope["method"], route.label, has_query=has_query, affinity=mark)

    def _finish(self, exchange: Exchange, route: FoundRoute) -> None:
        """Count and log the request. Without a status the client disconnected, or the endpoint failed."""
        status = exchange.status or _CLIENT_CLOSED_REQUEST
        seconds = time.perf_counter() - exchange.started
        outcome = "ok" if status < 400 else "client_error" if status < 500 else "server_error"
        dialect = exchange.state["dialect"].name
        self._metrics.requests.labels(route.label, dialect, str(status)).inc()
        if (caller := exchange.state.get("caller")) is not None and caller.is_known:
            self._metrics.count_key_request(caller.id, status)
        self._metrics.observe_request(route.label, outcome, seconds, self._tracing.exemplar())
        first = {
            "id": exchange.request_id,
            "path": route.label,
            "status": status,
            "seconds": seconds,
            "dialect": dialect,
        }
        logger.info(fields_line({**first, **exchange.facts}))
