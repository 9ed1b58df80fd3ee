"""Whether requests should be sent to this process. Asked by probes and by Ray."""

from dataclasses import dataclass

from service.errors import UnavailableError
from service.inference.worker import InferenceWorker
from service.lifecycle import Lifecycle
from service.raster.pool import Rasterizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Reads the parts that can keep the service from being ready."""

    lifecycle: Lifecycle
    rasterizer: Rasterizer
    worker: InferenceWorker
    stall_seconds: float  # a batch that takes longer makes the service not ready

    @property
    def is_device_lost(self) -> bool:
        """Whether only a restart can help."""
        return self.worker.is_lost

    def obstacle(self) -> UnavailableError | None:
        """The reason why the service is not ready; None where it is."""
        phase = self.lifecycle.phase
        if phase == "loading":
            return UnavailableError("not_ready", "The service is loading.")
        if phase == "failed":
            return UnavailableError("gpu_failed", "The service has failed.")
        if phase != "ready":
            return UnavailableError("draining", f"The service is {phase}.")
        if not self.rasterizer.is_alive:
            return UnavailableError("not_ready", "The raster workers do not start.")
        stalled = self.worker.stalled_seconds
        if stalled > self.stall_seconds:
            return UnavailableError("not_ready", f"The current batch has been on the device for {stalled:.0f} s.")
        return None
