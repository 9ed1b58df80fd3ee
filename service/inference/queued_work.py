"""The entries of the device's queue, and what comes of them."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from model import PageScores, PreparedPage, PreparedRequest
from service.fair_queue import Standing
from service.tracing import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowResult:
    """The scores of a window, and the times of its batch."""

    scores: PageScores
    queue_seconds: float
    stage_seconds: dict[str, float]  # upload to language, of the whole batch


@dataclass(slots=True, kw_only=True)
class EncodeProgress:
    """What was done for a window before it is scored, where its pages are encoded few at a time."""

    tried: set[bytes] = field(default_factory=set)  # content hashes
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedWindow:
    """One window of one request."""

    request: PreparedRequest
    future: "Future[WindowResult]" = field(default_factory=Future)
    queued_at: float
    expires_at: float
    is_due: bool = False  # it expires by the deadline of its request, and not by the longest wait for a batch
    standing: Standing
    patches: int = 0  # that the vision pass of its batch encodes for it; known when it is taken
    seconds: float = 0.0  # of the device that it is expected to take; known when it is taken
    trace: Trace | None = None  # of the request that the window is of
    progress: EncodeProgress = field(default_factory=EncodeProgress)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackgroundEncode:
    """Pages to encode into the feature cache ahead of requests. Few, so that a request that arrives meanwhile waits little."""

    pages: Sequence[PreparedPage]
    patches: int = 0  # of the pages; 0: not known
    window: QueuedWindow | None = None  # that needs the pages; None: no request waits for them
    future: "Future[None]" = field(default_factory=Future)
