"""The pool's memory of worker crashes: documents in quarantine, and whether crashes come in a storm.

Time comes from the clock handed in.
"""

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable

_REMEMBERED_DOCUMENTS = 1_000
_REMEMBERED_SECONDS = 600.0
_CRASHES_TO_QUARANTINE = 2
_STORM_DEATHS = 10
_STORM_SECONDS = 60.0

_log = logging.getLogger(__name__)


class CrashHistory:
    """Thread-safe: every supervising thread writes, the schedule reads."""

    def __init__(self, *, on_worker_death: Callable[[str], None], clock: Callable[[], float]) -> None:
        """on_worker_death: called with the cause of each death, in the thread that records it."""
        self._on_worker_death = on_worker_death
        self._clock = clock
        self._lock = threading.Lock()
        self._deaths: deque[float] = deque(maxlen=_STORM_DEATHS + 1)
        self._quarantined: OrderedDict[str, tuple[int, float, str]] = (
            OrderedDict()
        )  # crashes, the last one's time, code
        self._was_storm = False

    def record_death(self, cause: str) -> None:
        """Count a dead worker, whether or not a document was the reason."""
        with self._lock:
            self._deaths.append(self._clock())
            begins = not self._was_storm and self._count_recent() > _STORM_DEATHS
            self._was_storm = self._was_storm or begins
        _log.warning("raster worker died: %s", cause)
        if begins:
            _log.error("more than %d raster workers died in %.0f s", _STORM_DEATHS, _STORM_SECONDS)
        self._on_worker_death(cause)

    def record_crash(self, sha256: str, *, code: str) -> None:
        """Remember the document that crashed a worker, and the error code of the crash."""
        with self._lock:
            now = self._clock()
            count, since, _ = self._quarantined.pop(sha256, (0, now, code))
            if now - since > _REMEMBERED_SECONDS:
                count = 0
            self._quarantined[sha256] = (count + 1, now, code)
            if len(self._quarantined) > _REMEMBERED_DOCUMENTS:
                self._quarantined.popitem(last=False)

    def quarantine_code(self, sha256: str) -> str | None:
        """The error code for a document that has crashed two workers within ten minutes; None for all others."""
        with self._lock:
            count, since, code = self._quarantined.get(sha256, (0, 0.0, ""))
            is_quarantined = count >= _CRASHES_TO_QUARANTINE and self._clock() - since <= _REMEMBERED_SECONDS
            return code if is_quarantined else None

    @property
    def is_storm(self) -> bool:
        """Whether more than ten workers died in the last minute."""
        with self._lock:
            self._was_storm = self._count_recent() > _STORM_DEATHS
            return self._was_storm

    def _count_recent(self) -> int:
        now = self._clock()
        return sum(now - death <= _STORM_SECONDS for death in self._deaths)
