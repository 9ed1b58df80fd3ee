"""HTTP/1.1 on one connection: uvicorn's protocol on httptools, less what would lose a body or read it as a request.

An offered upgrade (`Connection: Upgrade`, as the HTTP client of Java's JDK sends for h2c) is ignored, as RFC 9110 section 7.8
allows. httptools skips the body of such a request, and would read it as the next request. So its head is parsed a second time
by a new parser, without the offer, and the bytes behind the head go to that parser.
"""

import asyncio
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

MAX_HEAD_BYTES = 64 * 1024
"""Of one request's target, headers and trailers."""


class HttpProtocol(HttpToolsProtocol):
    """No byte of a body is read as a request, and heads are bounded. A request that is not well-formed gets a 400 and ends the
    connection. A connection on which nothing is answered is closed after the keep-alive time, also before its first request."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_bytes = 0
        self._is_in_head = False
        self._unparsed_bytes = 0  # received since a head, a piece of a body or a request was complete
        self._is_faulty = False  # what else arrives is ignored

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._close_unless_used()

    def data_received(self, data: bytes) -> None:
        if self._is_faulty:
            return
        self._unset_keepalive_if_required()
        self._unparsed_bytes += len(data)
        try:
            self._parse(data)
            is_well_formed = True
        except httptools.HttpParserError:
            is_well_formed = False
        if max(self._head_bytes, self._unparsed_bytes - len(data)) > MAX_HEAD_BYTES:
            self._refuse(f"The head of the request is over {MAX_HEAD_BYTES} bytes. Send fewer or shorter headers.")
        elif not is_well_formed:
            self._refuse("The request is not well-formed HTTP/1.1.")
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self._close_unless_used()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
        self._head_bytes = self._unparsed_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        if self._is_in_head:  # a trailer is no header: the application has decided by those already
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._unparsed_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed_bytes = 0
        super().on_message_complete()

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

    def _count_head(self, size: int) -> None:
        """Raises: ValueError, which ends the parsing."""
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError(f"{self._head_bytes} bytes of head")

    def _refuse(self, message: str) -> None:
        """Answer with 400, where no other answer is due, and end the connection once all due answers were sent."""
        self._is_faulty = True
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self.send_400_response(message)
        elif not cycle.more_body:  # an earlier, complete request, whose answer is still sent
            cycle.keep_alive = False
        else:  # the request whose body is at fault
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started or self.pipeline:
                self.transport.close()
            else:
                self.send_400_response(message)

    def _close_unless_used(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
