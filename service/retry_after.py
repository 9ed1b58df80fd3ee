"""The seconds of a `Retry-After`, from an estimate of the wait."""

import math
import random

LONGEST_SECONDS = 30

_SPREAD = 0.5


def retry_after(estimated_seconds: float) -> int:
    """Whole seconds, 1 to LONGEST_SECONDS: the estimate and up to half of it more, by chance, so that clients that were
    refused together do not come back together."""
    seconds = estimated_seconds * random.uniform(1, 1 + _SPREAD)
    return min(LONGEST_SECONDS, max(1, math.ceil(seconds)))
