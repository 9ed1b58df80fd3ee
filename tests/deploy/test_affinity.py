"""Requests about one document meet one replica, through a real HAProxy, also when a replica dies and comes back."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest

from tests.deploy.fleet import MAX_REQUESTS, REPLICAS, SERVED_BY, Fleet
from tests.deploy.processes import repeating
from tests.patience import PATIENCE_SECONDS, eventually

KEYS = [f"document-{number}" for number in range(12)]
LOAD_CLIENTS = 3


def server_of(fleet: Fleet, key: str) -> str:
    answer = fleet.ask(key, page=KEYS.index(key))
    assert answer.status_code == 200, answer.text
    return answer.headers[SERVED_BY]


def homes_of(fleet: Fleet) -> dict[str, str]:
    """Which server each key meets."""
    return {key: server_of(fleet, key) for key in KEYS}


def test_requests_without_a_key_spread(fleet: Fleet) -> None:
    servers = Counter(fleet.ask().headers[SERVED_BY] for _ in range(8 * REPLICAS))
    assert len(servers) == REPLICAS and min(servers.values()) >= 4, servers


def test_a_key_meets_one_replica_and_its_pages_are_encoded_once_in_the_fleet(fleet: Fleet) -> None:
    hits, misses = fleet.pages("ziprerank_cache_hits_total"), fleet.pages("ziprerank_cache_misses_total")
    homes = homes_of(fleet)
    assert len(set(homes.values())) == REPLICAS, "12 keys leave no replica out"
    encoded = fleet.pages("ziprerank_cache_misses_total") - misses
    assert homes_of(fleet) == homes
    assert fleet.pages("ziprerank_cache_misses_total") - misses == encoded <= len(KEYS)
    assert fleet.pages("ziprerank_cache_hits_total") - hits >= len(KEYS)


def test_the_id_in_the_path_is_the_same_key(fleet: Fleet) -> None:
    for key in KEYS[:4]:
        paths = (f"/v1/documents/{key}", f"/documents/{key}", f"/v1/documents/{key}/rerank")
        servers = {httpx.get(fleet.url + path, timeout=PATIENCE_SECONDS).headers[SERVED_BY] for path in paths}
        assert servers == {server_of(fleet, key)}


def test_a_client_cannot_set_the_balancers_own_header(fleet: Fleet) -> None:
    servers = {fleet.ask(headers={"X-Affinity-Key": KEYS[0]}).headers[SERVED_BY] for _ in range(8)}
    assert len(servers) > 1


def test_a_hot_key_is_helped_by_other_replicas(fleet: Fleet) -> None:
    with ThreadPoolExecutor(max_workers=MAX_REQUESTS - 4) as threads:
        answers = list(threads.map(lambda _: fleet.ask(KEYS[0]), range(24)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers[SERVED_BY] for answer in answers}) > 1


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "/%6Detrics"])
def test_no_replica_answers_for_its_metrics_through_the_balancer(fleet: Fleet, path: str) -> None:
    answer = httpx.get(fleet.url + path, timeout=PATIENCE_SECONDS)
    assert (answer.status_code, answer.text) == (404, "Scrape the replicas, not the balancer.\n")


def test_the_balancer_has_metrics_of_its_own(fleet: Fleet) -> None:
    assert "haproxy_server_status" in httpx.get(f"{fleet.statistics_url}/metrics", timeout=PATIENCE_SECONDS).text


def test_a_killed_replica_loses_only_its_own_keys_and_gets_them_back(fleet: Fleet) -> None:
    homes = homes_of(fleet)
    killed = homes[KEYS[0]]
    number = int(killed.removeprefix("replica-"))
    load = Load(fleet)
    with repeating(*(load.client(first) for first in range(LOAD_CLIENTS))):
        eventually(lambda: len(load.answers) > 3 * LOAD_CLIENTS)
        fleet.kill(number)
        eventually(lambda: fleet.status(killed).startswith("DOWN"))
        seen_down = time.monotonic()
        eventually(lambda: sum(answer.began > seen_down for answer in load.answers) > len(KEYS))
    failed = [answer for answer in load.answers if answer.status != 200]
    assert len(failed) <= LOAD_CLIENTS, (
        "a client has one request in flight: more were not in the killed process's hands"
    )
    assert {answer.status for answer in failed} <= {502}
    assert all(answer.began < seen_down for answer in failed)

    moved = homes_of(fleet)
    assert {key: home for key, home in moved.items() if homes[key] != killed} == {
        key: home for key, home in homes.items() if home != killed
    }
    assert killed not in moved.values()

    fleet.start(number)
    eventually(lambda: fleet.status(killed) == "UP")
    assert homes_of(fleet) == homes


@dataclass(frozen=True)
class Answer:
    began: float
    status: int


class Load:
    """What clients are answered that ask about one document after the other."""

    def __init__(self, fleet: Fleet) -> None:
        self.answers: list[Answer] = []
        self._fleet = fleet

    def client(self, first: int) -> Callable[[int], None]:
        """One that begins with that document."""

        def ask(number: int) -> None:
            place = (first + number * (LOAD_CLIENTS + 1)) % len(KEYS)
            began = time.monotonic()
            self.answers.append(Answer(began, self._fleet.ask(KEYS[place], page=place).status_code))

        return ask
