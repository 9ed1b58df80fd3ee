"""What is measured of one request: seconds by stage, sizes, the stage it is in, and its trace."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from service.metrics import Exemplar
from service.tracing import Attributes, Trace


class RequestRecord:
    """Seconds by stage of one request, the stage it is in, its sizes as they become known (for the log), and its trace."""

    def __init__(self, trace: Trace | None = None) -> None:
        self.trace = trace  # None: no spans are kept of it
        self.started = time.perf_counter()
        self.seconds: dict[str, float] = {}
        self.sizes: dict[str, int] = {}
        self.stage = "parse"

    @contextmanager
    def observe(self, stage: str) -> Iterator[None]:
        self.stage = stage
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self.add({stage: seconds})
        if self.trace is not None:
            self.trace.stage_ended(stage, seconds)

    def add(self, seconds_by_stage: Mapping[str, float]) -> None:
        for stage, seconds in seconds_by_stage.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @property
    def exemplar(self) -> Exemplar | None:
        return self.trace.exemplar if self.trace is not None else None

    def describe(self, attributes: Attributes) -> None:
        """Add attributes to the trace, if there is one."""
        if self.trace is not None:
            self.trace.describe(attributes)
