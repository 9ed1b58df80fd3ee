"""A clock that a test moves."""


class Clock:
    """Gives seconds when it is called. Stands still until a test sets `now` or somebody sleeps."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Move time on; for one sleeper at a time."""
        self.now += seconds
