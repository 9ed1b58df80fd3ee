"""Waiting in tests: generous, because machines are shared, and never for ever. Imports neither torch nor the service."""

import asyncio
import time
from collections.abc import Callable

import httpx

PATIENCE_SECONDS = 600
"""For steps that take seconds on an idle machine, several processes that start at once among them.

A loaded machine may take its time; only a test that waits in vain takes as long as this.
"""

PATIENCE = {
    f"{name}_seconds": PATIENCE_SECONDS
    for name in ("queue", "request", "stall", "stall_exit", "header", "body_idle", "body", "write_idle")
}
"""Settings of a service that gives up nothing before a test does."""

TICK_SECONDS = 0.01


def eventually(is_true: Callable[[], bool], goal: str = "") -> float:
    """Wait for a state that another thread or process brings about; the seconds that it took.

    Fails the test that waits in vain, by the name of the goal.
    """
    started = time.monotonic()
    while not is_true():
        assert time.monotonic() - started < PATIENCE_SECONDS, f"waited in vain: {goal}"
        time.sleep(TICK_SECONDS)
    return time.monotonic() - started


async def until(is_true: Callable[[], bool]) -> None:
    """`eventually` for a state that tasks of the running event loop may bring about."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_true():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(TICK_SECONDS)


def wait_until_ready(client: httpx.Client) -> None:
    eventually(lambda: client.get("/readyz").status_code == 200, "the service is ready")
