"""The phase of the process between start and exit: loading, ready, draining, refusing, failed."""

from typing import Literal

from service.errors import UnavailableError

Phase = Literal["loading", "ready", "draining", "refusing", "failed"]


class Lifecycle:
    """One value that probes, admission and shutdown read.

    The event loop changes it, and the device thread by `fail`. A change is one assignment, so any thread may read it.
    """

    def __init__(self) -> None:
        self.phase: Phase = "loading"

    @property
    def is_ready(self) -> bool:
        return self.phase == "ready"

    def become_ready(self) -> None:
        """End of loading. A drain that began during loading goes on."""
        if self.phase == "loading":
            self.phase = "ready"

    def fail(self) -> None:
        """The model cannot be served by this process."""
        self.phase = "failed"

    def drain(self) -> None:
        """Report not ready but keep accepting, until load balancers notice. A service that was never ready refuses at once."""
        if self.phase == "ready":
            self.phase = "draining"
        elif self.phase == "loading":
            self.phase = "refusing"

    def refuse(self) -> None:
        """Refuse new requests; requests in flight are finished."""
        self.phase = "refusing"

    def check_accepting(self) -> None:
        """Raises UnavailableError where a new request cannot be served."""
        if self.phase == "refusing":
            raise UnavailableError("draining", "The service is shutting down. Send the request to another replica.")
        if self.phase == "failed":
            raise UnavailableError("gpu_failed", "The service has failed and is restarting. Try again.")
        if self.phase == "loading":
            raise UnavailableError("not_ready", "The model is still loading. Try again.", retry_after_seconds=5)
