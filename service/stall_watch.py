"""Ends the process when its device has work and finishes none of it: a restart helps, waiting does not.

The ordinary case is a kernel that never ends. Python goes on meanwhile, so a thread sees it, writes the stacks of all threads
to standard error and ends the process with `EXIT_STALLED`. A library that hangs without releasing the interpreter (the GIL)
stops that thread too; for this case a timer of `faulthandler`, which needs no interpreter, does the same, with exit code 1.
"""

import faulthandler
import logging
import os
from threading import Event, Thread
from typing import Protocol

EXIT_STALLED = 71

_TICKS = 50  # in the time after which a stall ends the process
_LONGEST_TICK_SECONDS = 1.0
_TIMER_OVER_LIMIT = 2  # the timer is for the case that the thread does not run

logger = logging.getLogger(__name__)


class Device(Protocol):
    @property
    def stalled_seconds(self) -> float: ...


class StallWatch:
    """Watches one device from `start` to `stop`.

    Made for the main program of a process: it ends the process, and uses the one timer that `faulthandler` has.
    """

    def __init__(self, device: Device, *, exit_seconds: float) -> None:
        """exit_seconds: the time without progress after which the process ends."""
        self._device = device
        self._exit_seconds = exit_seconds
        self._tick_seconds = min(_LONGEST_TICK_SECONDS, exit_seconds / _TICKS)
        self._is_stopped = Event()
        self._thread = Thread(target=self._run, name="stall-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the thread and the timer are gone."""
        self._is_stopped.set()
        self._thread.join()

    def _run(self) -> None:
        watched_seconds = 0.0
        while not self._is_stopped.wait(self._tick_seconds):
            faulthandler.dump_traceback_later(_TIMER_OVER_LIMIT * self._exit_seconds, exit=True)
            # Ticks are added up, so that time for which the whole process was stopped (SIGSTOP, a frozen container) does not
            # count. For the timer it does, which is why a process that was stopped for long may end with 1.
            watched_seconds = min(watched_seconds + self._tick_seconds, self._device.stalled_seconds)
            if watched_seconds >= self._exit_seconds:
                self._end()
        faulthandler.cancel_dump_traceback_later()

    def _end(self) -> None:
        logger.critical(
            "the device has finished nothing for %.0f s (stall_exit_seconds is %g); the process ends with %d, so that it is "
            "restarted; the stacks of all threads follow",
            self._device.stalled_seconds,
            self._exit_seconds,
            EXIT_STALLED,
        )
        faulthandler.dump_traceback(all_threads=True)
        os._exit(EXIT_STALLED)  # an orderly end would wait for the thread that hangs
