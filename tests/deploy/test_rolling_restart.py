"""Two replicas behind a real HAProxy, restarted one after the other under load: no request is lost."""

from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx

from tests.deploy.fleet import Fleet, running_fleet
from tests.deploy.processes import answers, repeating, request_of_one_page
from tests.patience import PATIENCE_SECONDS, eventually

CLIENTS = 4
DRAIN_DELAY_SECONDS = 8
"""HAProxy asks each second and believes the second refusal; the rest is for a loaded machine."""


class KeptConnection:
    """A client that sends one request after the other on one connection."""

    def __init__(self, fleet: Fleet, statuses: list[int | str]) -> None:
        limits = httpx.Limits(max_connections=1)
        self.client = httpx.Client(base_url=fleet.url, timeout=PATIENCE_SECONDS, limits=limits)
        self._statuses = statuses

    def ask(self, number: int) -> None:
        try:
            status: int | str = self.client.post("/rerank", json=request_of_one_page(number % 50)).status_code
        except httpx.TransportError as error:
            status = type(error).__name__
        self._statuses.append(status)


def test_a_rolling_restart_loses_no_request(tmp_path: Path) -> None:
    flags = "--drain-delay-seconds", str(DRAIN_DELAY_SECONDS), "--drain-grace-seconds", str(PATIENCE_SECONDS)
    statuses: list[int | str] = []
    with running_fleet(tmp_path, *flags, replicas=2, max_requests=64) as fleet:
        clients = [KeptConnection(fleet, statuses) for _ in range(CLIENTS)]
        with ExitStack() as closing:
            for client in clients:
                closing.enter_context(client.client)
            closing.enter_context(repeating(*(client.ask for client in clients)))
            for number, port in enumerate(fleet.ports):
                wait_for_answers(statuses)
                assert fleet.stop(number) == 0
                assert fleet.status(f"replica-{number}").startswith("DOWN")
                wait_for_answers(statuses)
                fleet.start(number)
                eventually(partial(answers, f"http://127.0.0.1:{port}/readyz"), "the new replica is ready")
                eventually(partial(is_up, fleet, number), "HAProxy has noticed")
            wait_for_answers(statuses)
    assert set(statuses) == {200}, Counter(statuses)


def wait_for_answers(statuses: list[int | str], count: int = 3 * CLIENTS) -> None:
    """Until there are so many more."""
    before = len(statuses)
    eventually(lambda: len(statuses) >= before + count, "clients are answered")


def is_up(fleet: Fleet, number: int) -> bool:
    return fleet.status(f"replica-{number}") == "UP"
