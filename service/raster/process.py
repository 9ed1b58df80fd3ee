"""The parent's handle of one worker process: start it, call it with a deadline, kill and reap it, name the cause of its death.

Trusts no reply: an attacker who controls the worker controls every byte of it.
"""

import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from model.pages.image import LONGEST_PAGE_EDGE
from model.pages.text_page_format import TextPageFormat
from service.degraded_reason import DegradedReason
from service.raster.page import (
    FAILURE_CODES,
    LONGEST_VIEW_EDGE,
    MEMORY_EXIT_STATUS,
    SLOT_BYTES,
    DocumentOutline,
    Kind,
    RasterFailure,
    WorkerSettings,
)

Cause = Literal["timeout", "memory", "cpu", "protocol", "crash"]

_LONGEST_REPLY_BYTES = 512  # short enough that nested JSON cannot exhaust the parser's stack
_MOST_PAGES = 10_000_000
_MOST_LENGTH = 2**31 - 1
_DEGRADED_REASONS = tuple(DegradedReason)  # no set: a reply may hold values that cannot be hashed
_OPEN_DOCUMENTS = 16
_OPEN_BYTES = 64 << 20
# Without these glibc returns a page's memory to the kernel after each step and requests it again in the next: 2,500 page
# faults and 5 of 8.4 ms for a JPEG page of 724 x 1024. Other C libraries ignore them.
_KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "TZ", "HOME", "XDG_DATA_HOME", "XDG_DATA_DIRS")  # the last three: for fonts
_PACKAGE_PARENT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterPage:
    """One page as pixels, in the parent's memory."""

    pixels: np.ndarray  # uint8 (height, width, 3), longest edge at most 1024 unless a larger one was asked for, owned
    degraded_reasons: tuple[DegradedReason, ...]  # kinds of content that are missing from the page
    seconds: float  # that the call took
    began_ns: int  # in `time.time_ns`; as the worker reports it, but within the call
    ended_ns: int


class ProcessDied(Exception):
    """The process has ended, by itself or killed for the cause."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause)
        self.cause: Cause = cause


class RasterProcess:
    """One child. Not thread-safe, except for `interrupt`. After ProcessDied only `close` remains to be called."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Raises: OSError, when the system cannot start another process."""
        self.documents_opened = 0
        self.rss_bytes = 0
        self._open: OrderedDict[int, int] = OrderedDict()  # key to size, the most recently used last
        self._ticket = 0
        with ExitStack() as on_failure, ExitStack() as child_ends:
            slot_fd = _make_slot()
            child_ends.callback(os.close, slot_fd)
            self._slot = on_failure.enter_context(mmap.mmap(slot_fd, SLOT_BYTES))
            control, child_control = socket.socketpair()
            self._control = on_failure.enter_context(control)
            child_ends.enter_context(child_control)
            self._popen = _start(settings, control_fd=child_control.fileno(), slot_fd=slot_fd)
            on_failure.pop_all()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def open_documents(self) -> tuple[int, ...]:
        return tuple(self._open)

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    def await_hello(self, *, seconds: float) -> None:
        """Raises: ProcessDied."""
        self._call({"verb": "hello"}, seconds=seconds)

    def open(
        self,
        key: int,
        data: bytes | bytearray,
        *,
        kind: Kind,
        seconds: float,
        text_page: TextPageFormat | None = None,
    ) -> DocumentOutline:
        """text_page: of a text; None: the default. Raises: RasterFailure, ProcessDied."""
        self.forget(self._evictions_for(len(data)), seconds=seconds)
        self.documents_opened += 1
        message = {"verb": "open", "document": key, "kind": kind, "bytes": len(data), **_text_page(text_page)}
        reply = self._call(message, payload=data, seconds=seconds)
        opened = DocumentOutline(
            page_count=self._integer(reply, "page_count", most=_MOST_PAGES), is_paged=reply.get("is_paged") is True
        )
        self._open[key] = len(data)
        return opened

    def render(self, key: int, number: int, *, seconds: float, longest_edge: int = LONGEST_PAGE_EDGE) -> RasterPage:
        """longest_edge: of the page, at most `LONGEST_VIEW_EDGE`. Raises: RasterFailure, ProcessDied."""
        self._open.move_to_end(key)
        message = {"verb": "page", "document": key, "number": number}
        return self._call_for_page(message, seconds=seconds, longest_edge=longest_edge)

    def render_only_page(
        self,
        data: bytes | bytearray,
        *,
        kind: Kind,
        seconds: float,
        text_page: TextPageFormat | None = None,
        longest_edge: int = LONGEST_PAGE_EDGE,
    ) -> RasterPage:
        """`open`, `render` and `forget` in one call, for a document with a single page.

        Raises: RasterFailure, ProcessDied.
        """
        self.documents_opened += 1
        message = {"verb": "only_page", "kind": kind, "bytes": len(data), **_text_page(text_page)}
        return self._call_for_page(message, payload=data, seconds=seconds, longest_edge=longest_edge)

    def _call_for_page(
        self, message: dict[str, Any], *, seconds: float, longest_edge: int, payload: bytes | bytearray = b""
    ) -> RasterPage:
        """Copy the page out of the slot: the next call overwrites it, and the worker could at any time."""
        assert longest_edge <= LONGEST_VIEW_EDGE, "the slot has room for no larger page"
        started, sent_ns = time.perf_counter(), time.time_ns()
        edge = {} if longest_edge == LONGEST_PAGE_EDGE else {"longest_edge": longest_edge}
        reply = self._call(message | edge, payload=payload, seconds=seconds)
        got_ns = time.time_ns()
        width, height = (self._integer(reply, name, most=longest_edge) for name in ("width", "height"))
        began_ns, ended_ns = (
            min(max(self._integer(reply, name, most=2**63), sent_ns), got_ns) for name in ("began_ns", "ended_ns")
        )
        pixels = np.frombuffer(self._slot, np.uint8, count=width * height * 3).reshape(height, width, 3).copy()
        return RasterPage(
            pixels=pixels,
            degraded_reasons=self._degraded_reasons(reply),
            seconds=time.perf_counter() - started,
            began_ns=began_ns,
            ended_ns=max(began_ns, ended_ns),
        )

    def forget(self, keys: tuple[int, ...], *, seconds: float) -> None:
        """Raises: ProcessDied."""
        if keys:
            self._call({"verb": "close", "documents": keys}, seconds=seconds)
        for key in keys:
            del self._open[key]

    def _evictions_for(self, byte_count: int) -> tuple[int, ...]:
        """The open documents to close before one of `byte_count` bytes is opened.

        The most recently used leave first: requests take turns, so those are the last to be needed again. (The usual order
        would evict each document just before its turn, and halve the throughput.)
        """
        kept, kept_bytes = 0, byte_count
        for size in self._open.values():
            kept_bytes += size
            if kept == _OPEN_DOCUMENTS - 1 or kept_bytes > _OPEN_BYTES:
                break
            kept += 1
        return self.open_documents[kept:]

    def interrupt(self) -> None:
        """Kill the process from another thread; a pending call raises ProcessDied."""
        self._popen.kill()

    def close(self) -> None:
        """Kill and reap the process, and release its socket and slot."""
        self._popen.kill()
        self._popen.wait()
        self._control.close()
        self._slot.close()

    def _call(self, message: dict[str, Any], *, seconds: float, payload: bytes | bytearray = b"") -> dict[str, Any]:
        self._ticket += 1
        try:
            line = self._exchange(message | {"ticket": self._ticket}, payload, deadline=time.monotonic() + seconds)
        except TimeoutError as error:
            raise self._died("timeout") from error
        except OSError as error:
            raise self._died() from error
        try:
            reply = json.loads(line)
        except ValueError as error:
            raise self._died("protocol") from error
        if not isinstance(reply, dict) or reply.get("ticket") != self._ticket:
            raise self._died("protocol")
        self.rss_bytes = self._integer(reply, "rss_bytes", most=2**63)
        if "error" in reply:
            raise self._failure(reply)
        return reply

    def _exchange(self, message: dict[str, Any], payload: bytes | bytearray, *, deadline: float) -> bytes:
        self._control.settimeout(_remaining(deadline))
        self._control.sendall(json.dumps(message).encode() + b"\n")
        self._control.settimeout(_remaining(deadline))
        self._control.sendall(payload)
        line = b""
        while not line.endswith(b"\n"):
            self._control.settimeout(_remaining(deadline))
            piece = self._control.recv(_LONGEST_REPLY_BYTES)
            if not piece:
                raise ConnectionResetError
            line += piece
            if len(line) > _LONGEST_REPLY_BYTES:
                raise self._died("protocol")
        return line

    def _failure(self, reply: dict[str, Any]) -> Exception:
        code = reply["error"]
        if not isinstance(code, str) or code not in FAILURE_CODES:
            return self._died("protocol")
        if reply.get("width") is None or reply.get("height") is None:
            return RasterFailure(code)
        width, height = (self._integer(reply, name, most=_MOST_LENGTH, least=0) for name in ("width", "height"))
        return RasterFailure(code, width=width, height=height)

    def _degraded_reasons(self, reply: dict[str, Any]) -> tuple[DegradedReason, ...]:
        names = reply.get("degraded_reasons")
        if not isinstance(names, list) or any(name not in _DEGRADED_REASONS for name in names):
            raise self._died("protocol")
        return tuple(sorted(set(map(DegradedReason, names))))

    def _integer(self, reply: dict[str, Any], name: str, *, most: int, least: int = 1) -> int:
        value = reply.get(name)
        if type(value) is not int or not least <= value <= most:
            raise self._died("protocol")
        return value

    def _died(self, cause: Cause | None = None) -> ProcessDied:
        """Kill and reap the process; without a known cause, derive it from the exit status."""
        self._popen.kill()
        status = self._popen.wait()
        causes: dict[int, Cause] = {MEMORY_EXIT_STATUS: "memory", -signal.SIGXCPU: "cpu"}
        return ProcessDied(cause or causes.get(status, "crash"))


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining


def _make_slot() -> int:
    """An anonymous file: it has no name to unlink or to guess."""
    if sys.platform == "linux":
        import fcntl

        fd = os.memfd_create("raster-slot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, SLOT_BYTES)
        # Forbid changes of size: a worker that truncated the file would kill its parent with SIGBUS.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
        os.ftruncate(fd, SLOT_BYTES)
    return fd


def _text_page(format: TextPageFormat | None) -> dict[str, Any]:
    return {} if format is None else {"text_page": asdict(format)}


def _start(settings: WorkerSettings, *, control_fd: int, slot_fd: int) -> "subprocess.Popen[bytes]":
    """A fresh interpreter: fork would copy CUDA's state, and multiprocessing's spawn imports the parent's main module."""
    argument = json.dumps({"control_fd": control_fd, "slot_fd": slot_fd, "settings": asdict(settings)})
    # A few variables only: the parent's environment holds API keys.
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-P", "-B", "-m", "service.raster.worker", argument],
        pass_fds=(control_fd, slot_fd),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # MuPDF prints pieces of documents
        stderr=subprocess.DEVNULL,
        env=kept | {"PYTHONPATH": str(_PACKAGE_PARENT), **_KEEP_FREED_MEMORY},
    )
