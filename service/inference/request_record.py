"""The measurements of one request: seconds by stage, sizes, the current stage, and its trace where one is kept."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from service.metrics import Exemplar
from service.tracing import Attributes, Trace


class RequestRecord:
    """Filled in while a request is answered; read by the log line, the metrics and the answer's timings.

    Belongs to one request. Threads may add to different stages at once, but not to the same one.
    """

    def __init__(self, trace: Trace | None = None) -> None:
        self.trace = trace  # None: the request's spans are not kept
        self.started = time.perf_counter()
        self.seconds: dict[str, float] = {}  # by stage; a stage that runs several times has their sum
        self.sizes: dict[str, int] = {}  # such as documents, pages, visual_tokens
        self.answer_due_at: float | None = None  # by the monotonic clock: only the last steps of the answer came later
        self.stage = "parse"  # the current one, which a disconnect is counted under

    @property
    def exemplar(self) -> Exemplar | None:
        return self.trace.exemplar if self.trace is not None else None

    @contextmanager
    def observe(self, stage: str) -> Iterator[None]:
        """Time a stage, and record its span. A stage that fails has neither."""
        self.stage = stage
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self.add({stage: seconds})
        if self.trace is not None:
            self.trace.stage_ended(stage, seconds)

    def add(self, seconds_by_stage: Mapping[str, float]) -> None:
        """Add times measured elsewhere, whose spans are recorded there too."""
        for stage, seconds in seconds_by_stage.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def describe(self, attributes: Attributes) -> None:
        """Set attributes of the request's span, where there is one."""
        if self.trace is not None:
            self.trace.describe(attributes)
