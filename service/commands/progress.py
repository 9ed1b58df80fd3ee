"""A progress bar in one line of a terminal. Elsewhere nothing is printed."""

import shutil
import threading
from typing import TextIO

_BAR_COLUMNS = 30
_CLEAR_LINE = "\r\033[K"


class Progress:
    """Shows one task at a time. Thread-safe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_shown = stream.isatty()
        self._lock = threading.Lock()
        self._task = ""
        self._total = self._done = 0
        self._line = ""  # on the terminal now

    def begin(self, task: str, total: int = 0) -> None:
        """Show another task. total: its number of steps; 0: unknown, without a bar."""
        with self._lock:
            self._task, self._total, self._done = task, total, 0
            self._draw()

    def advance(self, steps: int = 1) -> None:
        with self._lock:
            self._done = min(self._done + steps, self._total)
            self._draw()

    def count_page(self, stage: str, seconds: float) -> None:
        """Advance by one page: an `observe` for the raster pool."""
        self.advance()

    def clear(self) -> None:
        """Leave the line empty for other output."""
        with self._lock:
            self._show("")

    def _draw(self) -> None:
        if not self._total:
            self._show(f"{self._task} …")
            return
        share = self._done / self._total
        filled = int(share * _BAR_COLUMNS)
        bar = "#" * filled + "-" * (_BAR_COLUMNS - filled)
        self._show(f"{self._task} [{bar}] {int(share * 100):>3} %")

    def _show(self, line: str) -> None:
        if not self._is_shown or line == self._line:
            return
        self._line = line
        columns = shutil.get_terminal_size().columns
        self._stream.write(_CLEAR_LINE + line[: columns - 1])
        self._stream.flush()
