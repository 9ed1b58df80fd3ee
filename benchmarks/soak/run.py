"""One soak: arrivals at a constant rate, readings of the process, and a canary whose scores are compared bit by bit."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np

from benchmarks.http_load.target import read_metrics
from benchmarks.soak.process_state import ProcessState, read_state
from benchmarks.soak.traffic import Corpus, Service, canary_body, draw_hostile, good_body, make_corpus

HOSTILE_SHARE = 0.1
GROWTH_GOAL_MEBIBYTES = 64.0
_WARM_UP_SHARE = 0.1  # of the time; caches fill up and threads are started
_LOAD = 0.4  # the rate of arrivals over that of one client alone
_CALIBRATION_REQUESTS = 20
_READINGS = 100
_PIECES = 20  # of the time, for latencies over it
_BURST = 32  # requests
_REST_SECONDS = 60.0  # at most, until nothing is left of the last request
_SAME_SECONDS = 2.0
_TICK_SECONDS = 0.05
_GOOD_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    url: str
    pid: int
    temporary_folder: Path
    seconds: float
    canary_seconds: float  # between two canaries
    seed: int


@dataclass(kw_only=True)
class Soak:
    """The state of one run."""

    plan: Plan
    client: httpx.AsyncClient
    service: Service
    advance: Callable[[float], object]  # called with the seconds that have passed since the last call
    corpus: Corpus = field(default_factory=make_corpus)
    rate: float = 0.0  # arrivals a second
    good: Counter[str] = field(default_factory=Counter)  # answers by status
    hostile: Counter[str] = field(default_factory=Counter)  # ends by kind and status
    latencies: list[tuple[float, float]] = field(default_factory=list)  # of good requests: when it was due, seconds
    readings: list[dict[str, Any]] = field(default_factory=list)
    canaries: list[tuple[float, ...]] = field(default_factory=list)
    under_way: "set[asyncio.Task[None]]" = field(default_factory=set)
    started: float = 0.0

    def now(self) -> float:
        """Seconds since the load began."""
        return time.perf_counter() - self.started

    async def run(self) -> dict[str, Any]:
        self.rate = await self._calibrate()
        self.started = time.perf_counter()
        await self._burst(Random(f"{self.plan.seed} burst"))
        await self._load_for(self.plan.seconds * _WARM_UP_SHARE)
        before = await self._rest()
        await self._load_for(self.plan.seconds * (1 - _WARM_UP_SHARE))
        after = await self._rest(before)
        return self.results(before, after)

    async def _calibrate(self) -> float:
        """The rate of arrivals, by the time that one client alone needs for a request."""
        random = Random(self.plan.seed)
        started = time.perf_counter()
        for _ in range(_CALIBRATION_REQUESTS):
            response = await self.client.post("/rerank", content=good_body(self.corpus, random))
            response.raise_for_status()
        return _LOAD * _CALIBRATION_REQUESTS / (time.perf_counter() - started)

    async def _burst(self, random: Random) -> None:
        """As many requests at once as have the service start all threads of its pools, which it does when they are wanted."""
        bodies = [good_body(self.corpus, random) for _ in range(_BURST)]
        for response in await asyncio.gather(*(self.client.post("/rerank", content=body) for body in bodies)):
            response.raise_for_status()

    async def _load_for(self, seconds: float) -> None:
        """Requests at the rate, with a pause for each canary. Times that are due in a pause are left out, not made up for."""
        random = Random(f"{self.plan.seed} {seconds}")
        next_canary = self.now() + self.plan.canary_seconds
        due = last = self.now()
        end = due + seconds
        while due < end:
            await asyncio.sleep(max(0.0, due - self.now()))
            if self.now() >= next_canary:
                await self._score_canary()
                next_canary, due = self.now() + self.plan.canary_seconds, self.now()
            if not self.readings or self.now() - self.readings[-1]["seconds"] >= self.plan.seconds / _READINGS:
                self._read()
            send = self._send_hostile(random) if random.random() < HOSTILE_SHARE else self._send_good(random, due)
            task = asyncio.create_task(send)
            self.under_way.add(task)
            task.add_done_callback(self._finish)
            self.advance(due - last)
            last, due = due, due + 1 / self.rate

    def _finish(self, task: "asyncio.Task[None]") -> None:
        self.under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.hostile[f"{type(error).__name__} in the client"] += 1

    async def _send_good(self, random: Random, due: float) -> None:
        body = good_body(self.corpus, random)
        try:
            response = await self.client.post("/rerank", content=body)
        except httpx.TransportError as error:
            self.good[type(error).__name__] += 1
            return
        self.good[str(response.status_code)] += 1
        self.latencies.append((due, self.now() - due))

    async def _send_hostile(self, random: Random) -> None:
        send = draw_hostile(random)
        try:
            end = await send(self.service, self.corpus, random)
        except TimeoutError:
            end = "never"
        self.hostile[f"{send.__name__} {end}"] += 1

    async def _score_canary(self) -> None:
        """Alone on the device, because batch mates may change the last bits."""
        await self._until_idle()
        response = await self.client.post("/rerank", content=canary_body(self.corpus))
        if response.status_code != 200:
            self.canaries.append(())
            return
        results = sorted(response.json()["results"], key=lambda result: result["index"])
        self.canaries.append(tuple(result["relevance_score"] for result in results))

    async def _until_idle(self) -> None:
        """Until no request is worked on. Hostile ones that still send are none."""
        while True:
            metrics = await asyncio.to_thread(read_metrics, self.plan.url)
            names = ("ziprerank_requests_running", "ziprerank_requests_waiting", "ziprerank_raster_requests_waiting")
            if not any(metrics.get(name, 0) for name in names):
                return
            await asyncio.sleep(_TICK_SECONDS)

    async def _rest(self, start: ProcessState | None = None) -> ProcessState:
        """The process when everything is answered and the client's own connections are closed."""
        while self.under_way:
            await asyncio.wait(self.under_way)
        await self._score_canary()
        await self.client.aclose()
        state = await self._settled(start)
        self.client = httpx.AsyncClient(
            base_url=self.plan.url, timeout=_GOOD_SECONDS, headers=dict(self.client.headers)
        )
        return state

    async def _settled(self, start: ProcessState | None) -> ProcessState:
        """The state when it has been the same for some time and holds no more than at the start, or else the last one."""
        deadline = time.perf_counter() + _REST_SECONDS
        state, since = self._state(), time.perf_counter()
        while time.perf_counter() < deadline:
            await asyncio.sleep(_TICK_SECONDS)
            state, last = self._state(), state
            if state.counts != last.counts or (start is not None and _grown(start, state)):
                since = time.perf_counter()
            elif time.perf_counter() - since > _SAME_SECONDS:
                break
        return state

    def _state(self) -> ProcessState:
        return read_state(self.plan.pid, self.plan.temporary_folder)

    def _read(self) -> None:
        self.readings.append({"seconds": round(self.now(), 2), **asdict(self._state())})

    def results(self, before: ProcessState, after: ProcessState) -> dict[str, Any]:
        """Of the run, by the states of the process at rest after the warm-up and at the end."""
        growth = after.resident_mebibytes - before.resident_mebibytes
        counts = {name: {"before": before.counts[name], "after": after.counts[name]} for name in before.counts}
        server_errors = {end: count for end, count in self.hostile.items() if end.split()[-1].startswith("5")}
        failures = {
            "good requests that were not answered with 200": self.good.total() - self.good["200"],
            "server errors for hostile requests": sum(server_errors.values()),
            "hostile requests without an end": sum(count for end, count in self.hostile.items() if "never" in end),
            "canaries with other scores": sum(canary != self.canaries[0] for canary in self.canaries),
            "resources that have grown": len(_grown(before, after)),
            f"growth over {GROWTH_GOAL_MEBIBYTES:g} MiB": int(growth > GROWTH_GOAL_MEBIBYTES),
        }
        return {
            "seconds": self.plan.seconds,
            "seed": self.plan.seed,
            "arrivals_per_second": self.rate,
            "good": dict(self.good),
            "hostile": dict(sorted(self.hostile.items())),
            "server_errors": sum(server_errors.values()),
            "canaries": len(self.canaries),
            "canaries_alike": len(set(self.canaries)) == 1,
            "latency_ms": _percentiles([seconds for _, seconds in self.latencies]),
            "latencies_ms": _over_time(self.latencies),
            "growth_mebibytes": growth,
            "resident_mebibytes": {"before": before.resident_mebibytes, "after": after.resident_mebibytes},
            "resources": counts,
            "readings": self.readings,
            "failures": {name: count for name, count in failures.items() if count},
        }


def _grown(start: ProcessState, state: ProcessState) -> list[str]:
    """The resources of which there are more than at the start."""
    return [name for name, count in state.counts.items() if count > start.counts[name]]


def _percentiles(seconds: list[float]) -> dict[str, float | None]:
    if not seconds:
        return {"p50": None, "p99": None}
    return {name: 1000 * float(np.percentile(seconds, rank)) for name, rank in (("p50", 50), ("p99", 99))}


def _over_time(latencies: list[tuple[float, float]]) -> list[dict[str, float | None]]:
    """Percentiles of pieces of the run."""
    end = max((due for due, _ in latencies), default=0.0) + 1e-6
    width = end / _PIECES
    pieces = [[latency for due, latency in latencies if int(due / width) == number] for number in range(_PIECES)]
    return [{"seconds": number * width, **_percentiles(part)} for number, part in enumerate(pieces)]


async def soak(plan: Plan, advance: Callable[[float], object]) -> dict[str, Any]:
    """The results of a run: figures, readings over time, and `failures`, which is empty where all goals are met."""
    url = httpx.URL(plan.url)
    assert url.port is not None
    headers = {"Content-Type": "application/json"}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    client = httpx.AsyncClient(base_url=plan.url, timeout=_GOOD_SECONDS, headers=headers, limits=limits)
    run = Soak(plan=plan, client=client, service=Service(host=url.host, port=url.port), advance=advance)
    try:
        return await run.run()
    finally:
        await run.client.aclose()
