"""uvicorn with a drain: on SIGTERM not ready at once, refusing after a delay, exit when the requests in flight are done."""

import asyncio
import functools
import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from types import FrameType

import uvicorn

from service.app import build_app, load_reranker
from service.connections import ConnectionLimits, Connections, connections_by_files
from service.dialects import DIALECTS
from service.dialects.dialect import Dialect
from service.http_protocol import HttpProtocol
from service.lifecycle import Lifecycle
from service.settings import Settings
from service.stall_watch import StallWatch
from service.startup import LoadModel, Service

_SWITCH_SECONDS = 0.0005
"""Longest time for which a computing thread keeps the interpreter while the event loop waits for it. With Python's default of
5 ms and a few busy threads, single steps of the loop lasted 26 ms under load (benchmarks/event_loop)."""

_ACCEPTED_AT_ONCE = 8
"""Connections that asyncio accepts before the event loop goes on. As often it tries again when the process is out of files, and
logs each time, and so many it accepts before the first of them is counted."""

_WAITING_CONNECTIONS = 2048
"""Those that the system keeps until they are accepted; it may allow fewer."""

_OTHER_FILES = 96
_FILES_A_WORKER = 8

ALL_ADDRESSES = "::"
"""As a host: all addresses of both families. asyncio would listen on IPv6 alone."""

logger = logging.getLogger(__name__)


def serve(settings: Settings) -> int:
    """Run until stopped, and return the process's exit code."""
    server = make_server(settings)
    watch = StallWatch(server.service.worker, exit_seconds=settings.stall_exit_seconds)
    watch.start()
    server.run()
    watch.stop()
    return server.exit_code


def make_server(
    settings: Settings, *, load: LoadModel = load_reranker, dialects: Sequence[Dialect] = DIALECTS
) -> "Server":
    """A server that `run` starts. load: makes the model."""
    lifecycle = Lifecycle()

    def stop(exit_code: int) -> None:
        server.stop(exit_code)  # which is made below, as it needs the application

    app = build_app(settings, lifecycle=lifecycle, load=load, stop=stop, dialects=dialects)
    connections = Connections(_connection_limits(settings))
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        loop="asyncio",
        http=functools.partial(HttpProtocol, connections=connections, replica=settings.replica),  # type: ignore[arg-type]  # which uvicorn just calls
        ws="none",
        backlog=_ACCEPTED_AT_ONCE,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_keep_alive=settings.keep_alive_seconds,  # type: ignore[arg-type]  # which uvicorn hands to the event loop
        timeout_graceful_shutdown=math.ceil(settings.drain_grace_seconds),
    )
    server = Server(config, service=app.state.service, drain_delay_seconds=settings.drain_delay_seconds)
    return server


class Server(uvicorn.Server):
    """The first SIGTERM drains, the first SIGINT stops without the delay, the second of either ends at once."""

    def __init__(self, config: uvicorn.Config, *, service: Service, drain_delay_seconds: float) -> None:
        super().__init__(config)
        self.exit_code = 0
        self.service = service
        self.lifecycle = service.lifecycle
        self.is_listening = threading.Event()
        self.port = 0
        self._drain_delay_seconds = drain_delay_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_stopping = False

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        self._loop = asyncio.get_running_loop()
        sys.setswitchinterval(_SWITCH_SECONDS)
        if sockets is None and self.config.host == ALL_ADDRESSES:
            try:
                sockets = [_listen_everywhere(self.config.port)]
            except OSError as error:
                logger.error("cannot listen on [::]:%d: %s", self.config.port, error.strerror)
                self.exit_code = 1
                self.should_exit = True
                return
        await super().startup(sockets)  # type: ignore[arg-type]
        if not self.started:
            self.exit_code = 1
            return
        for server in self.servers:
            for listening in server.sockets:
                _lengthen_queue(listening.fileno())
                host, self.port = listening.getsockname()[:2]
                logger.info("listening on %s", _url(host, self.port))
        self.is_listening.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """uvicorn's signal handler. The signal is not raised again afterwards: a drained process exits with 0."""
        if self._is_stopping or self._loop is None:
            self.exit_code = 1
            self.should_exit = self.force_exit = True
            return
        self._is_stopping = True
        delay = self._drain_delay_seconds if sig == signal.SIGTERM else 0.0
        self._loop.call_soon_threadsafe(self._begin_drain, delay)

    def stop(self, exit_code: int) -> None:
        """End with `exit_code`; from any thread."""
        self.exit_code = exit_code
        self.should_exit = True

    def _begin_drain(self, delay_seconds: float) -> None:
        logger.info("draining: not ready now, refusing in %.1f s", delay_seconds)
        self.lifecycle.drain()
        assert self._loop is not None
        self._loop.call_later(delay_seconds, self._refuse)

    def _refuse(self) -> None:
        self.lifecycle.refuse()
        self.should_exit = True


def _connection_limits(settings: Settings) -> ConnectionLimits:
    other_files = _OTHER_FILES + _FILES_A_WORKER * settings.rasterizer_processes
    max_connections, reason = connections_by_files(settings.max_connections, other_files=other_files)
    level = logging.INFO if max_connections == settings.max_connections else logging.WARNING
    logger.log(level, "connections: at most %d, by %s", max_connections, reason)
    return ConnectionLimits(
        max_connections=max_connections,
        max_header_bytes=settings.max_header_bytes,
        max_headers=settings.max_headers,
        header_seconds=settings.header_seconds,
        body_seconds=settings.body_seconds,
        write_idle_seconds=settings.write_idle_seconds,
    )


def _lengthen_queue(listening: int) -> None:
    """Have the system keep more connections than asyncio accepts at once, which has one figure for both."""
    with socket.socket(fileno=os.dup(listening)) as same:
        same.listen(_WAITING_CONNECTIONS)


def _listen_everywhere(port: int) -> socket.socket:
    """A socket on all addresses of IPv6, and of IPv4 where the system can do both. Raises: OSError."""
    has_both = socket.has_dualstack_ipv6()
    if not has_both:
        logger.warning("[::] is IPv6 alone on this system; use --host 0.0.0.0 for IPv4")
    return socket.create_server((ALL_ADDRESSES, port), family=socket.AF_INET6, dualstack_ipv6=has_both)


def _url(host: str, port: int) -> str:
    """An address that can be opened on this machine, and what else is listened on."""
    if host == "0.0.0.0":
        return f"http://127.0.0.1:{port} (all IPv4 addresses)"
    if host == ALL_ADDRESSES:
        return f"http://[::1]:{port} (all addresses)"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
