"""More load than the service can take: does a flood by one caller spare the others, and does the service keep its rate?

    python -m benchmarks.overload --smoke                       # seconds: does it run?
    python -m benchmarks.overload                               # a quarter of an hour on the bundled checkpoint
    python -m benchmarks.overload --only fairness -- --page-cache-bytes 0       # flags of `ziprerank serve` after --

Fairness: a good caller sends requests of 20 pages, then of 2, far below what the service can take: first alone, then while
another caller sends requests of 100 pages at ten times the rate that the service can answer. The good caller's pages are in the
caches in both runs, those of the flood are new at first. The figure is the good caller's 95th percentile beside its own alone.
Overload: eight callers together send 20-page requests at five times that rate for a minute. The figures are answers a second
beside the most that the service gave, the time of a refusal, and the growth of memory and queue. Arrivals are by chance and in
open loop, and times count from when a request was due. Ends with one JSON document.
"""

import argparse
import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import results_file
from benchmarks.distribution import percentile
from benchmarks.http_load.arrivals import make_chooser
from benchmarks.http_load.client import Outcome, closed_loop, connect
from benchmarks.http_load.corpus import Corpus, make_corpus
from benchmarks.http_load.target import describe, read_metrics, started_service
from benchmarks.overload.load import Stream
from service.api_keys import make_key, write_keys

GOOD_LOAD = 0.3
"""The share of its time that the good caller has a request under way, when it is alone."""

FLOOD = 10.0
OVERLOAD = 5.0
"""Times the rate that the service can answer."""

_OPTIONS = {"include_timings": True}
_SETTLE_SECONDS = 5.0
_SAMPLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadPlan:
    """How much is sent."""

    good_pages: Sequence[int] = (20, 2)
    flood_pages: int = 100
    flood_documents: int = 20  # different ones
    good_requests: int = 40
    good_documents: int = 10  # different ones, whose pages are in the caches before anything is measured
    warm_up_rounds: int = 3
    capacity_requests: int = 3  # of flood_pages
    peak_requests: int = 40
    peak_concurrencies: Sequence[int] = (2, 8)
    ramp_seconds: float = 10.0  # of the flood before the good caller is measured
    overload_seconds: float = 60.0
    callers: int = 8  # that overload the service together


SMOKE_PLAN = OverloadPlan(
    good_pages=(2,),
    flood_pages=6,
    flood_documents=4,
    good_requests=4,
    good_documents=2,
    capacity_requests=2,
    peak_requests=6,
    peak_concurrencies=(2,),
    ramp_seconds=0.5,
    overload_seconds=3.0,
    callers=2,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The service, and a key for each caller."""

    url: str
    good: str
    flooder: str
    many: Sequence[str]


def main() -> None:
    options = _parse_options()
    plan = SMOKE_PLAN if options.smoke else _plan(options)
    with tempfile.TemporaryDirectory() as folder:
        names = ["good", "flooder", *(f"caller-{number}" for number in range(plan.callers))]
        made = [make_key(name) for name in names]
        write_keys(Path(folder) / "keys.json", [entry for _, entry in made])
        good, flooder, *many = (key for key, _ in made)
        flags = ["--api-keys-file", f"{folder}/keys.json", *options.service_flags]
        with started_service(options.model, flags) as url:
            target = Target(url=url, good=good, flooder=flooder, many=many)
            results = {
                "workload": {"send": options.send, "service_flags": options.service_flags},
                "service": describe(url, key=good),
                **asyncio.run(_measure(target, plan, options)),
            }
    if options.smoke:
        print(json.dumps(results))
        return
    device = results_file.in_file_name(results["service"]["gpu"])
    results_file.write(options.output or f"overload_{options.send}_{device}", results)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="checkpoint of the service that is started (default: demo)")
    parser.add_argument("--send", choices=("pdf", "jpeg"), default="pdf", help="what a request holds (default: pdf)")
    parser.add_argument("--pages", type=int, nargs="*", default=[20, 2], help="of the good caller (default: 20 2)")
    parser.add_argument("--requests", type=int, default=40, help="of the good caller in each run (default: 40)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the overload (default: 60)")
    parser.add_argument("--only", choices=("fairness", "overload"), help="one part (default: both)")
    parser.add_argument(
        "--output", help="name of the file in benchmarks/results (default: by what is sent, the device)"
    )
    parser.add_argument("--smoke", action="store_true", help="a few small requests; nothing is kept")
    parser.add_argument("service_flags", nargs="*", metavar="-- FLAG", help="flags for the service that is started")
    return parser.parse_args()


def _plan(options: argparse.Namespace) -> OverloadPlan:
    return OverloadPlan(good_pages=options.pages, good_requests=options.requests, overload_seconds=options.seconds)


async def _measure(target: Target, plan: OverloadPlan, options: argparse.Namespace) -> dict[str, Any]:
    results: dict[str, Any] = {}
    if options.only != "overload":
        results["fairness"] = await _measure_fairness(target, plan, options.send)
    if options.only != "fairness":
        results["overload"] = await _measure_overload(target, plan, options.send)
    return results


def _corpus(send: str, pages: int, *, requests: int = 10) -> Corpus:
    return make_corpus(send, corpus_pages=requests * pages, pages_per_request=pages, options=_OPTIONS)


async def _measure_fairness(target: Target, plan: OverloadPlan, send_form: str) -> dict[str, Any]:
    """The good caller alone, then beside the flood, for each size of its requests."""
    floods = _corpus(send_form, plan.flood_pages, requests=plan.flood_documents)
    flood_requests = floods.requests(make_chooser(floods.size, 0.0, seed=1))
    goods = {pages: _corpus(send_form, pages, requests=plan.good_documents) for pages in plan.good_pages}
    found: dict[str, Any] = {}
    async with connect(target.url, key=target.good) as send, connect(target.url, key=target.flooder) as flood_send:
        with tqdm(total=len(goods) * 2 + 1, desc="flood's capacity") as progress:
            count = plan.capacity_requests
            outcomes = await closed_loop(flood_send, flood_requests, concurrency=2, count=count, on_done=lambda: None)
            capacity = len(outcomes) / max(outcome.finished for outcome in outcomes)
            progress.update()
            for pages, corpus in goods.items():
                requests = corpus.requests(make_chooser(corpus.size, 0.0, seed=2))
                count = plan.warm_up_rounds * plan.good_documents
                first = await closed_loop(send, requests, concurrency=1, count=count, on_done=lambda: None)
                rate = GOOD_LOAD / percentile([outcome.latency for outcome in first[-plan.good_documents :]], 50)
                seconds = plan.good_requests / rate

                progress.set_description(f"{pages} pages, alone")
                alone = Stream(send, requests, rate=rate, seed=3)
                await alone.run(seconds=seconds)
                progress.update()

                progress.set_description(f"{pages} pages, beside the flood")
                flood = Stream(flood_send, flood_requests, rate=FLOOD * capacity, seed=4)
                flooding = asyncio.create_task(flood.run_until_cancelled())
                await asyncio.sleep(plan.ramp_seconds)
                beside = Stream(send, requests, rate=rate, seed=3)
                await beside.run(seconds=seconds)
                flooding.cancel()
                await asyncio.gather(flooding, return_exceptions=True)
                await asyncio.sleep(_SETTLE_SECONDS)
                progress.update()
                found[str(pages)] = {
                    "rate_per_second": round(rate, 3),
                    "alone": _figures(alone.outcomes),
                    "beside_flood": _figures(beside.outcomes),
                    "flood": _figures(flood.outcomes),
                    "p95_ratio": _ratio(beside.outcomes, alone.outcomes),
                }
    return {"flood_capacity_per_second": round(capacity, 3), "flood_times": FLOOD, "by_pages": found}


def _ratio(beside: Sequence[Outcome], alone: Sequence[Outcome]) -> float:
    p95 = [percentile([outcome.latency for outcome in run if outcome.is_answered], 95) for run in (beside, alone)]
    return round(p95[0] / p95[1], 2)


async def _measure_overload(target: Target, plan: OverloadPlan, send_form: str) -> dict[str, Any]:
    """The most answers a second in closed loop, then five times as many requests in open loop."""
    pages = plan.good_pages[0]
    corpus = _corpus(send_form, pages)
    peak = 0.0
    async with connect(target.url, key=target.many[0]) as send:
        requests = corpus.requests(make_chooser(corpus.size, 0.0, seed=5))
        for concurrency in plan.peak_concurrencies:
            count = plan.peak_requests
            outcomes = await closed_loop(send, requests, concurrency=concurrency, count=count, on_done=lambda: None)
            peak = max(peak, len(outcomes) / max(outcome.finished for outcome in outcomes))
    rate = OVERLOAD * peak / plan.callers
    sampling = asyncio.create_task(_sample(target))
    outcomes = [
        outcome
        for stream in await asyncio.gather(
            *(_overload_by(target.url, key, corpus, rate, plan, seed) for seed, key in enumerate(target.many))
        )
        for outcome in stream.outcomes
    ]
    sampling.cancel()
    samples: list[dict[str, float]] = (await asyncio.gather(sampling, return_exceptions=True))[0]  # type: ignore[assignment]
    in_time = [outcome for outcome in outcomes if outcome.is_answered and outcome.finished <= plan.overload_seconds]
    goodput = len(in_time) / plan.overload_seconds
    return {
        "pages": pages,
        "peak_per_second": round(peak, 3),
        "times": OVERLOAD,
        "goodput_per_second": round(goodput, 3),
        "goodput_of_peak": round(goodput / peak, 3),
        **_figures(outcomes),
        "samples": samples,
    }


async def _overload_by(url: str, key: str, corpus: Corpus, rate: float, plan: OverloadPlan, seed: int) -> Stream:
    async with connect(url, key=key) as send:
        requests = corpus.requests(make_chooser(corpus.size, 0.0, seed=100 + seed))
        stream = Stream(send, requests, rate=rate, seed=200 + seed)
        await stream.run(seconds=plan.overload_seconds)
        return stream


async def _sample(target: Target) -> list[dict[str, float]]:
    """Memory and queue once a second, until it is cancelled."""
    samples: list[dict[str, float]] = []
    try:
        while True:
            metrics = await asyncio.to_thread(read_metrics, target.url, key=target.good)
            samples.append(
                {
                    "memory_bytes": metrics.get("process_resident_memory_bytes", 0.0),
                    "queue_tokens": metrics["ziprerank_queue_tokens"],
                    "requests": metrics["ziprerank_requests_in_flight"],
                }
            )
            await asyncio.sleep(_SAMPLE_SECONDS)
    except asyncio.CancelledError:
        return samples


def _figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    answered = [outcome.latency * 1000 for outcome in outcomes if outcome.is_answered]
    refused = [outcome.latency * 1000 for outcome in outcomes if outcome.reply.status == 429]
    return {
        "requests": len(outcomes),
        "answered": len(answered),
        "latency_ms": _quantiles(answered),
        "refused": dict(Counter(outcome.reply.code for outcome in outcomes if not outcome.is_answered)),
        "refusal_ms": _quantiles(refused),
    }


def _quantiles(values: Sequence[float]) -> dict[str, float | None]:
    return {f"p{percent}": round(percentile(values, percent), 1) if values else None for percent in (50, 95, 99)}


if __name__ == "__main__":
    main()
