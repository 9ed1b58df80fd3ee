"""The door: request id, key, cache scope, admission, and one log line and one set of metrics for every request.

Pure ASGI, in front of the framework, so that refusing costs nothing and disconnects stay visible. Knows no bodies.
"""

import asyncio
import hashlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import OverloadedError, ServiceError, TooLargeError, UnauthorizedError
from service.http.affinity import REPLICA_HEADER, affinity_mark
from service.http.error_responses import error_response, plain_error_response
from service.http.route_table import find_route, is_open
from service.lifecycle import Lifecycle
from service.logs import fields_line
from service.metrics import Metrics
from service.tracing import Tracing

_LINGER_BYTES = 128 * 1024 * 1024
_LINGER_SECONDS = 5.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

logger = logging.getLogger(__name__)


CacheScope = Callable[[Headers], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLimits:
    api_key: str | None
    max_body_bytes: int
    max_concurrent_requests: int
    max_in_flight_bytes: int


def shared_scope(headers: Headers) -> bytes:
    """One scope for all callers."""
    return b""


def scope_of_key(headers: Headers) -> bytes:
    """A scope for each Authorization header, and one for callers without: a gateway in front may check keys of its own."""
    return hashlib.sha256(headers.get("authorization", "").encode()).digest()


class Access:
    """`cache_scope` tells callers apart: what one of them sends and stores is never seen or timed from another scope."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: AccessLimits,
        lifecycle: Lifecycle,
        metrics: Metrics,
        tracing: Tracing,
        replica: str,
        cache_scope: CacheScope = shared_scope,
    ) -> None:
        self._app = app
        self._limits = limits
        self._cache_scope = cache_scope
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._tracing = tracing
        self._replica = replica
        self._requests = 0
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, replica=self._replica)
        found = find_route(scope["method"], scope["path"])
        if found is not None and found.route.door == "admitted":
            await self._admit(exchange, found.label)
        else:
            await self._other(exchange)

    async def _other(self, exchange: "_Exchange") -> None:
        try:
            if not is_open(exchange.scope["path"]):
                self._check_key(exchange.headers)
        except ServiceError as error:
            await error_response(error, exchange.request_id)(exchange.scope, exchange.receive, exchange.send)
        else:
            await self._run(exchange)

    async def _run(self, exchange: "_Exchange") -> None:
        """The application; a bug in it is a bland 500, its traceback in the log."""
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except Exception:
            logger.exception("request %s failed", exchange.request_id)
            if exchange.status is not None:  # the answer has begun and can only be cut off
                raise
            message = "Something went wrong on our side. Quote the request id when you report it."
            answer = plain_error_response(500, "internal_error", message, exchange.request_id)
            await answer(exchange.scope, exchange.receive, exchange.send)

    async def _admit(self, exchange: "_Exchange", route: str) -> None:
        self._tell_of_affinity(exchange, route)
        body_bytes = _declared_length(exchange.headers)
        if body_bytes is None:  # chunked: count on the worst
            body_bytes = self._limits.max_body_bytes
        try:
            self._check(exchange.headers, body_bytes)
        except ServiceError as error:
            self._metrics.count_rejection(error.code)
            await error_response(error, exchange.request_id)(exchange.scope, exchange.receive, exchange.send)
            self._finish(exchange, route)
            return
        exchange.scope["state"]["cache_scope"] = self._cache_scope(exchange.headers)
        self._requests += 1
        self._bytes += body_bytes
        self._metrics.requests_in_flight.inc()
        try:
            await self._run(exchange)
        finally:
            self._requests -= 1
            self._bytes -= body_bytes
            self._metrics.requests_in_flight.dec()
            self._finish(exchange, route)

    def _tell_of_affinity(self, exchange: "_Exchange", route: str) -> None:
        """To the log line and the server span."""
        scope = exchange.scope
        mark = affinity_mark(exchange.headers, scope["path"])
        exchange.facts["replica"] = self._replica
        if mark is not None:
            exchange.facts["affinity"] = mark
        has_query = bool(scope.get("query_string"))
        self._tracing.describe_server_span(scope["method"], route, has_query=has_query, affinity=mark)

    def _check(self, headers: Headers, body_bytes: int) -> None:
        self._check_key(headers)
        self._lifecycle.check_accepting()
        limits = self._limits
        if body_bytes > limits.max_body_bytes:
            raise body_too_large(body_bytes, limits.max_body_bytes)
        if self._requests >= limits.max_concurrent_requests:
            message = f"{self._requests} requests are being worked on, which is the limit. Try again later."
            raise OverloadedError("overloaded", message, retry_after_seconds=1)
        if self._bytes + body_bytes > limits.max_in_flight_bytes:
            message = (
                f"{self._bytes} bytes are in flight and the limit is {limits.max_in_flight_bytes}. Try again later."
            )
            raise OverloadedError("overloaded", message, retry_after_seconds=1)

    def _check_key(self, headers: Headers) -> None:
        key = self._limits.api_key
        if key is None:
            return
        scheme, _, sent = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(sent.strip().encode(), key.encode()):
            message = "The API key is missing or wrong; send it as 'Authorization: Bearer <key>'."
            raise UnauthorizedError("unauthorized", message, param="authorization")

    def _finish(self, exchange: "_Exchange", route: str) -> None:
        """Count and log an admitted request. No status: the client went away, or the handler broke."""
        status = exchange.status or 499
        seconds = time.perf_counter() - exchange.started
        outcome = "ok" if status < 400 else "client_error" if status < 500 else "server_error"
        self._metrics.requests.labels(route, "ziprerank", str(status)).inc()
        self._metrics.observe_request(route, outcome, seconds, self._tracing.exemplar())
        logger.info(
            fields_line(
                {"id": exchange.request_id, "path": route, "status": status, "seconds": seconds, **exchange.facts}
            )
        )


class _Exchange:
    """One request and its answer: gives it an id, remembers the status, adds id and replica to the answer's headers."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, replica: str) -> None:
        self.headers = Headers(scope=scope)
        sent_id = self.headers.get("x-request-id", "")
        self.request_id = sent_id if _REQUEST_ID.fullmatch(sent_id) else f"rerank-{uuid.uuid4().hex}"
        self.facts: dict[str, object] = {}  # for the log line, filled in by the handler
        self.scope: Scope = {
            **scope,
            "state": {**scope.get("state", {}), "request_id": self.request_id, "facts": self.facts},
        }
        self.status: int | None = None
        self.started = time.perf_counter()
        self._replica = replica
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
            headers["X-Request-Id"] = self.request_id
            headers[REPLICA_HEADER] = self._replica
        await self._send(message)

    async def _discard_body(self) -> None:
        """Closing while a client still sends resets the connection, and it never reads why it was refused. So let it finish,
        within bounds. (On a connection that stays open the server discards what is left after the answer.)"""
        left = _LINGER_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while self._is_body_pending and left > 0:
                    left -= len((await self.receive()).get("body", b""))


def body_too_large(size: int, limit: int) -> TooLargeError:
    """The refusal for a body of `size` bytes, declared or received so far."""
    message = f"The body has {size} bytes or more and the limit is {limit}. Send fewer or smaller documents."
    return TooLargeError("body_too_large", message, param="content-length")


def _declared_length(headers: Headers) -> int | None:
    if "content-length" not in headers and "transfer-encoding" not in headers:
        return 0  # there is no body
    length = headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 16 else None
