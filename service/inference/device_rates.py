"""The measured rates of the device: patches of vision passes, tokens of all other work, and tokens of batches as a whole."""

_MEMORY = 0.8  # weight of the past
_SHORTEST_SECONDS = 1e-6
_UNMEASURED_TOKENS_PER_SECOND, _UNMEASURED_PATCHES_PER_SECOND = 20_000.0, 100_000.0


class Rate:
    """A rate over the last measurements together.

    The mean of their rates would be wrong: where the end of a batch is noticed late, the next one seems to take no time.
    """

    def __init__(self) -> None:
        self._amount = 0.0
        self._seconds = 0.0

    def add(self, amount: float, seconds: float) -> None:
        self._amount = _MEMORY * self._amount + amount
        self._seconds = _MEMORY * self._seconds + seconds

    @property
    def per_second(self) -> float:
        """0 before the first measurement."""
        return self._amount / max(self._seconds, _SHORTEST_SECONDS) if self._amount else 0.0


class DeviceRates:
    """Written by the threads of the device, read by any."""

    def __init__(self) -> None:
        self.vision = Rate()  # patches
        self.language = Rate()  # tokens, by the time of all other work than vision passes
        self.batches = Rate()  # tokens, by the time of whole batches

    def seconds(self, *, tokens: int, patches: int) -> float:
        """Expected time of a window of so many tokens, of which so many patches must be encoded."""
        tokens_per_second = self.language.per_second or _UNMEASURED_TOKENS_PER_SECOND
        patches_per_second = self.vision.per_second or _UNMEASURED_PATCHES_PER_SECOND
        return tokens / tokens_per_second + patches / patches_per_second
