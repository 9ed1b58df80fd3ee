"""What the pool remembers of worker deaths: documents that kill again and again, and whether deaths come in a storm.

Knows neither processes nor requests; time comes from the clock handed in.
"""

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable

_REMEMBERED_DOCUMENTS = 1_000
_REMEMBERED_SECONDS = 600.0
_DEATHS_TO_POISON = 2
_STORM_DEATHS = 10
_STORM_SECONDS = 60.0

_log = logging.getLogger(__name__)


class DeathRecord:
    """Thread-safe: every supervising thread writes, the schedule reads."""

    def __init__(self, *, on_worker_death: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._on_worker_death = on_worker_death
        self._clock = clock
        self._lock = threading.Lock()
        self._deaths: deque[float] = deque(maxlen=_STORM_DEATHS + 1)
        self._killers: OrderedDict[str, tuple[int, float, str]] = OrderedDict()
        self._was_storm = False

    def record(self, cause: str) -> None:
        with self._lock:
            self._deaths.append(self._clock())
            begins = not self._was_storm and self._count_recent() > _STORM_DEATHS
            self._was_storm = self._was_storm or begins
        _log.warning("raster worker died: %s", cause)
        if begins:
            _log.error("more than %d raster workers died in %.0f s", _STORM_DEATHS, _STORM_SECONDS)
        self._on_worker_death(cause)

    def blame(self, sha256: str, *, code: str) -> None:
        """Remember the document that a worker died of, and what its senders are told."""
        with self._lock:
            now = self._clock()
            count, since, _ = self._killers.pop(sha256, (0, now, code))
            if now - since > _REMEMBERED_SECONDS:
                count = 0
            self._killers[sha256] = (count + 1, now, code)
            if len(self._killers) > _REMEMBERED_DOCUMENTS:
                self._killers.popitem(last=False)

    def verdict_on(self, sha256: str) -> str | None:
        """The code to answer a known killer with, None for everybody else."""
        with self._lock:
            count, since, code = self._killers.get(sha256, (0, 0.0, ""))
            return code if count >= _DEATHS_TO_POISON and self._clock() - since <= _REMEMBERED_SECONDS else None

    @property
    def is_storm(self) -> bool:
        with self._lock:
            self._was_storm = self._count_recent() > _STORM_DEATHS
            return self._was_storm

    def _count_recent(self) -> int:
        now = self._clock()
        return sum(now - death <= _STORM_SECONDS for death in self._deaths)
