"""HTTP/1.1 on one connection: uvicorn's protocol on httptools, less what would lose a body or read it as a request.

An offered upgrade (`Connection: Upgrade`, as the HTTP client of Java's JDK sends for h2c) is ignored, as RFC 9110 section 7.8
allows. httptools skips the body of such a request, and would read it as the next request. So its head is parsed a second time
by a new parser, without the offer, and the bytes behind the head go to that parser.

A client that shuts down its sending side after a complete request gets its answer. At first a client that has closed its socket
looks the same. Only the latter resets the connection when something is sent to it, so `100 Continue` is sent, which clients of
HTTP/1.1 have to skip (RFC 9110 section 15.2). Clients of HTTP/1.0 know no such answer: there both count as a disconnect.
"""

import asyncio
import logging
import socket
import uuid
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.connections import Connections
from service.errors import (
    HeadTooLargeError,
    InvalidRequestError,
    RequestTimeoutError,
    ServiceError,
    UnavailableError,
)
from service.http.affinity import REPLICA_HEADER
from service.http.error_responses import error_response
from service.http.exchange import REQUEST_ID_HEADER
from service.logs import fields_line

_LEAST_BYTES_A_SECOND = 1024
_HEADER_OVERHEAD_BYTES = 4  # colon, space and the end of the line
_LINGER_SECONDS = 1.0
_SECOND_PROBE_SECONDS = 1.0
_PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"

logger = logging.getLogger(__name__)


class _HeadOverLimitError(Exception):
    """Target, headers and trailers are over the limit of bytes."""


class HttpProtocol(HttpToolsProtocol):
    """No byte of a body is read as a request; heads are bounded in size, number and time, and so is the wait for a client that
    does not read. A request that is not well-formed gets a 400 and ends the connection. A connection on which nothing is
    answered is closed after the keep-alive time, also before its first request."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: Connections,
        replica: str,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.unfinished_since: float | None = None
        self.unsent_since: float | None = None
        self._all = connections
        self._limits = connections.limits
        self._replica = replica
        self._head_bytes = 0
        self._headers_read = 0
        self._is_in_head = False
        self._is_in_body = False
        self._unparsed_bytes = 0  # received since a head, a piece of a body or a request was complete
        self._is_faulty = False  # what else arrives is ignored
        self._is_used = False
        self._is_flushing = False  # the answer is complete, and the client has not taken all of it
        self._unsent_bytes = 0
        self._half_closed_since: float | None = None
        self._probes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # `pause_writing` is called when the system takes no more
        if self._all.enter(self):
            self._rest()
        else:
            self._turn_away()

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.leave(self)
        self._all.unwatch(self)
        self._all.lingering.discard(self)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_faulty:
            if self in self._all.lingering:
                self.transport.close()
            return
        self._all.wake(self, is_used=self._is_used)
        self._unset_keepalive_if_required()
        self._unparsed_bytes += len(data)
        try:
            self._parse(data)
            is_well_formed = True
        except httptools.HttpParserError:
            is_well_formed = False
        limits = self._limits
        if self._head_bytes > limits.max_header_bytes or self._unparsed_bytes - len(data) > limits.max_header_bytes:
            limit = f"{limits.max_header_bytes} bytes"
            self._refuse(_head_too_large(f"over {limit}, the limit. Send fewer or shorter headers"))
        elif self._headers_read > limits.max_headers:
            self._refuse(_head_too_large(f"of more than {limits.max_headers} headers, the limit. Send fewer"))
        elif not is_well_formed:
            self._refuse(InvalidRequestError("invalid_request", "The request is not well-formed HTTP/1.1."))
        self._note_state()

    def eof_received(self) -> bool:  # type: ignore[override]  # the value is for asyncio
        """Whether an answer is due to a client that sends no more."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body or cycle.scope["http_version"] != "1.1":
            return False
        cycle.keep_alive = False
        if self._half_closed_since is None:
            self._half_closed_since = self.loop.time()
            self.unfinished_since = None
            self._all.watch(self)
            self._probe()
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unsent_since = self.loop.time()
        self._unsent_bytes = self.transport.get_write_buffer_size()
        self._all.watch(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.unsent_since = None
        if self._is_flushing:
            self._is_flushing = False
            self.on_response_complete()

    def on_response_complete(self) -> None:
        """The next request is read once the client has taken this answer: a client that never reads holds no place by it."""
        if self.flow.write_paused and not self.transport.is_closing():
            self._is_flushing = True
            self.flow.pause_reading()
            return
        super().on_response_complete()
        self._is_used = True
        self._note_state(is_timer_set=True)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
        self._head_bytes = self._headers_read = self._unparsed_bytes = 0
        self.unfinished_since = None

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._head_bytes += len(url)
        if self._head_bytes > self._limits.max_header_bytes:
            raise _HeadOverLimitError

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers_read += 1
        self._head_bytes += len(name) + len(value) + _HEADER_OVERHEAD_BYTES
        if self._head_bytes > self._limits.max_header_bytes:
            raise _HeadOverLimitError  # which ends the parsing
        if self._is_in_head:  # a trailer is no header: the application has decided by those already
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._is_in_body = True
        self._unparsed_bytes = 0
        self.unfinished_since = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_body = False
        self._unparsed_bytes = 0
        super().on_message_complete()

    def make_room(self) -> None:
        if self.unfinished_since is None:
            self.transport.close()
        else:
            self._end_unfinished()

    def look(self, now: float) -> None:
        limits = self._limits
        if self.unsent_since is not None and now - self.unsent_since >= limits.write_idle_seconds:
            left = self.transport.get_write_buffer_size()
            if self._unsent_bytes - left < _LEAST_BYTES_A_SECOND * (now - self.unsent_since):
                logger.warning("closed a connection whose client does not read its answer: %d bytes are left", left)
                self.transport.abort()
                return
            self.unsent_since, self._unsent_bytes = now, left
        if self.unfinished_since is not None:
            if self.flow.read_paused:
                self.unfinished_since = now
            elif now - self.unfinished_since > (limits.body_seconds if self._is_in_body else limits.header_seconds):
                self._end_unfinished()
        if self._half_closed_since is not None:
            if self._is_reset():
                self.transport.abort()
            elif self._probes == 1 and now - self._half_closed_since > _SECOND_PROBE_SECONDS:
                self._probe()  # a proxy between may have closed meanwhile, without a reset until now
        if self.unsent_since is None and self.unfinished_since is None and self._half_closed_since is None:
            self._all.unwatch(self)

    def _should_upgrade(self) -> bool:
        """For uvicorn's callbacks: the request whose upgrade httptools reports is not begun, as it is parsed again."""
        return True

    def _parse(self, data: bytes) -> None:
        """Raises: httptools.HttpParserError."""
        left = memoryview(data)
        while True:
            try:
                self.parser.feed_data(left)
            except httptools.HttpParserUpgrade as offer:
                if self.parser.get_method() == b"CONNECT":
                    raise httptools.HttpParserError("CONNECT is for proxies") from None
                left = left[offer.args[0] :]
                self._parse_head_without_upgrade()
            else:
                return

    def _parse_head_without_upgrade(self) -> None:
        """Have a new parser read the head that was read last, less its Upgrade headers, without which there is no offer."""
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        # uvicorn's: requests behind one with `Connection: close` are ignored, which httptools calls dangerous.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    def _note_state(self, *, is_timer_set: bool = False) -> None:
        """Watch a head or the rest of an answered body that is not complete; rest where there is neither, and no answer is due.

        is_timer_set: the connection is closed after the keep-alive time.
        """
        if self._is_faulty:
            return
        is_answered = self.cycle is None or self.cycle.response_complete
        if is_answered if self._is_in_body else self._is_in_head or self._unparsed_bytes > 0:
            self._unset_keepalive_if_required()
            if self.unfinished_since is None and not self.transport.is_closing():
                self.unfinished_since = self.loop.time()
                self._all.watch(self)
            return
        self.unfinished_since = None
        if is_answered and not self.transport.is_closing():
            self._rest(is_timer_set=is_timer_set)

    def _rest(self, *, is_timer_set: bool = False) -> None:
        self._all.rest(self, is_used=self._is_used)
        if not is_timer_set:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _end_unfinished(self) -> None:
        """End a connection whose head, or rest of a body, did not come in time."""
        if not self._is_in_head:
            self.transport.close()
            return
        seconds = self._limits.header_seconds
        message = f"The head of the request was not complete in time ({seconds:g} s at most). Send it at once."
        self._refuse(RequestTimeoutError("request_timeout", message))

    def _turn_away(self) -> None:
        """Answer with 503, and close the connection when the client has sent something: a close before would reset it, and
        the client would not read the answer."""
        self._is_faulty = True
        message = f"All {self._limits.max_connections} connections (MAX_CONNECTIONS) are in use. Try again later."
        self._send_error(UnavailableError("too_many_connections", message, retry_after_seconds=1))
        if self._all.may_linger():
            self._all.lingering.add(self)
            self.timeout_keep_alive_task = self.loop.call_later(_LINGER_SECONDS, self.transport.close)
        else:
            self.transport.close()

    def _refuse(self, error: ServiceError) -> None:
        """Answer with the error, where no other answer is due, and end the connection once all due answers were sent."""
        self._is_faulty = True
        self.unfinished_since = None
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._send_error(error)
            self.transport.close()
        elif not cycle.more_body:  # an earlier, complete request, whose answer is still sent
            cycle.keep_alive = False
        else:  # the request whose body is at fault
            cycle.disconnected = True
            cycle.message_event.set()
            if not cycle.response_started and not self.pipeline:
                self._send_error(error)
            self.transport.close()

    def _send_error(self, error: ServiceError) -> None:
        request_id = f"rerank-{uuid.uuid4().hex}"
        response = error_response(error, request_id)
        response.headers["Connection"] = "close"
        response.headers[REQUEST_ID_HEADER] = request_id
        response.headers[REPLICA_HEADER] = self._replica
        lines = [b"HTTP/1.1 %d %s" % (error.status, HTTPStatus(error.status).phrase.encode())]
        lines += [b"%s: %s" % header for header in [*self.server_state.default_headers, *response.raw_headers]]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        client = self.client[0] if self.client else None
        logger.warning(
            "refused before routing: %s",
            fields_line({"id": request_id, "status": error.status, "code": error.code, "client": client}),
        )

    def _probe(self) -> None:
        """Send what a client skips that still reads, and what makes the system of one that has closed reset the connection."""
        self._probes += 1
        if not self.cycle.response_started and not self.pipeline and not self.flow.write_paused:
            self.transport.write(_PROBE)

    def _is_reset(self) -> bool:
        """Whether the client's system has reset the connection, which asyncio does not notice after the end of the stream."""
        reset: socket.socket | None = self.transport.get_extra_info("socket")
        return reset is not None and reset.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def _head_too_large(fault: str) -> HeadTooLargeError:
    return HeadTooLargeError("head_too_large", f"The head of the request is {fault}.")
