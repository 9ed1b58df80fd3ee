"""Where the process stands between start and exit: loading, ready, draining, refusing, failed. Knows no component."""

from typing import Literal

from service.errors import UnavailableError

Phase = Literal["loading", "ready", "draining", "refusing", "failed"]


class Lifecycle:
    """One value that probes, admission and shutdown read. Changed from the event loop and the signal handler only."""

    def __init__(self) -> None:
        self.phase: Phase = "loading"

    @property
    def is_ready(self) -> bool:
        return self.phase == "ready"

    def become_ready(self) -> None:
        """Loading is over. A drain that began meanwhile goes on."""
        if self.phase == "loading":
            self.phase = "ready"

    def fail(self) -> None:
        """The model cannot be served by this process."""
        self.phase = "failed"

    def drain(self) -> None:
        """Not ready any more, but still accepting, until load balancers have noticed. What never was ready refuses."""
        if self.phase == "ready":
            self.phase = "draining"
        elif self.phase == "loading":
            self.phase = "refusing"

    def refuse(self) -> None:
        """Accept nothing more; what is in flight is finished."""
        self.phase = "refusing"

    def check_accepting(self) -> None:
        """Raises UnavailableError where a new request cannot be served."""
        if self.phase == "refusing":
            raise UnavailableError("draining", "The service is shutting down. Send the request to another replica.")
        if self.phase == "failed":
            raise UnavailableError("gpu_failed", "The service has failed and is restarting. Try again.")
        if self.phase == "loading":
            raise UnavailableError("not_ready", "The model is still loading. Try again.", retry_after_seconds=5)
