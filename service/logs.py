"""Log lines with `key=value` fields on standard error, one a request.

They never hold query text, page content or the file names of a client. Repeated warnings and errors do
not fill the log.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# The hub client logs each of its requests, uvicorn repeats lines of `server`, the multipart parser logs every malformed body.
# httpcore2 logs the headers of answers at the level debug, with the tokens in URLs to which they redirect.
_CHATTY = {
    "httpx": logging.WARNING,
    "httpcore2": logging.WARNING,
    "uvicorn.error": logging.WARNING,
    "python_multipart": logging.ERROR,
}


_EQUAL_LINES = 20
_WINDOW_SECONDS = 60.0
_REMEMBERED_PLACES = 1024


@dataclass(slots=True)
class _Window:
    ends: float
    lines: int = 0


class RepetitionFilter(logging.Filter):
    """Lets 20 warnings or errors a minute pass from each place in the code; the 20th says so, and the next after the minute
    says how many were left out. Lines of asyncio, which come from one place, are told apart by their first line."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: in seconds."""
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[tuple[str, int, str], _Window] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        kind = str(record.msg).partition("\n")[0] if record.name == "asyncio" else ""
        place = (record.pathname, record.lineno, kind)
        with self._lock:
            return self._may_pass(record, place)

    def _may_pass(self, record: logging.LogRecord, place: tuple[str, int, str]) -> bool:
        now = self._clock()
        window = self._windows.get(place)
        if window is None or now >= window.ends:
            if window is not None and window.lines > _EQUAL_LINES:
                _append(record, f"(and {window.lines - _EQUAL_LINES} lines like it that were left out before)")
            elif window is None and len(self._windows) >= _REMEMBERED_PLACES:
                del self._windows[next(iter(self._windows))]
            window = self._windows[place] = _Window(ends=now + _WINDOW_SECONDS)
        window.lines += 1
        if window.lines == _EQUAL_LINES:
            _append(record, f"(lines like it are left out for {window.ends - now:.0f} s)")
        return window.lines <= _EQUAL_LINES


def _append(record: logging.LogRecord, remark: str) -> None:
    record.msg, record.args = f"{record.getMessage()} {remark}", None


def configure_logging(level: str, *, more_fields: Callable[[], Mapping[str, object]] = dict) -> None:
    """Send the lines of every logger to standard error in one format.

    more_fields: called for every line, in the thread and context that log it; the fields are put at the end of the line.
    """
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s%(more)s",
        force=True,
    )

    def add_fields(record: logging.LogRecord) -> bool:
        fields = fields_line(more_fields())
        record.__dict__["more"] = f" {fields}" if fields else ""
        return True

    repetitions = RepetitionFilter()
    for handler in logging.getLogger().handlers:
        handler.addFilter(repetitions)
        handler.addFilter(add_fields)
    for name, least in _CHATTY.items():
        logging.getLogger(name).setLevel(least)


def fields_line(fields: Mapping[str, object]) -> str:
    """The fields as `a=1 b=2`, floats with six decimals (microseconds, where they are seconds)."""
    return " ".join(
        f"{key}={value:.6f}" if isinstance(value, float) else f"{key}={value}" for key, value in fields.items()
    )
