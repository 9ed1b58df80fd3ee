"""Load through the real service, from one client at a time to more than it can take.

    python -m benchmarks.http_load --smoke                            # seconds: does it run?
    python -m benchmarks.http_load --model demo                       # starts a service on the bundled checkpoint
    python -m benchmarks.http_load --url http://127.0.0.1:8000        # one that runs already, on a card say
    python -m benchmarks.http_load --send registered -- --keep-ratio 0.25     # flags of `ziprerank serve` after --

First closed loop: 1 to 16 clients, each sending as soon as it is answered. The most answers a second are the saturation. Then
open loop: requests arrive by chance (Poisson) at shares of the saturation, and their time counts from when they were due.
Pages come again as a Zipf law has it, so the caches meet what they would meet. Ends with one JSON document and a plot.
"""

import argparse
import asyncio
import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from benchmarks import plots, results_file
from benchmarks.http_load.arrivals import make_chooser, poisson_arrivals
from benchmarks.http_load.client import Send, closed_loop, connect, open_loop
from benchmarks.http_load.corpus import FORMS, Corpus, HttpRequest, make_corpus
from benchmarks.http_load.summary import highest_rates, hit_rates, summarise
from benchmarks.http_load.target import describe, read_metrics, register, started_service

LONG_RUN_LOAD = 0.7
"""The share of saturation whose 99th percentile is read, so that needs more requests than the others."""

_WARM_UP_REQUESTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """How much load, in which steps."""

    concurrencies: tuple[int, ...] = (1, 2, 4, 8, 16)
    loads: tuple[float, ...] = (0.2, 0.5, LONG_RUN_LOAD, 0.85, 0.95, 1.1)  # shares of the saturation
    requests: int  # of each step
    long_requests: int  # of the step at 70 %

    def count(self, load: float) -> int:
        return self.long_requests if load == LONG_RUN_LOAD else self.requests

    @property
    def total(self) -> int:
        return len(self.concurrencies) * self.requests + sum(self.count(load) for load in self.loads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What every step needs."""

    url: str
    send: Send
    requests: Iterator[HttpRequest]
    progress: "tqdm[Any]"

    def advance(self) -> None:
        self.progress.update()


def main() -> None:
    options = _parse_options()
    corpus = make_corpus(
        options.send,
        corpus_pages=options.corpus_pages,
        pages_per_request=options.pages,
        options={"include_timings": True, "keep_ratio": options.keep_ratio},
    )
    with nullcontext(options.url) if options.url else started_service(options.model, options.service_flags) as url:
        register(url, corpus.uploads)
        measured = asyncio.run(_measure(url, corpus, _plan(options), options.zipf))
        results = {"workload": _workload(options), "service": describe(url), **measured}
    if options.smoke:
        print(json.dumps(results))
        return
    device = results_file.in_file_name(results["service"]["gpu"])
    name = options.output or f"http_load_{options.send}_{device}"
    results_file.write(name, results)
    plots.draw_load(results, results_file.FOLDER / f"{name}.png")


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a service that runs already (default: start one here)")
    parser.add_argument("--model", default="demo", help="checkpoint of the service that is started (default: demo)")
    parser.add_argument("--send", choices=FORMS, default="jpeg", help="what a request holds (default: jpeg)")
    parser.add_argument("--pages", type=int, default=20, help="pages of a request (default: 20)")
    parser.add_argument("--keep-ratio", type=float, default=0.5, help="share of visual tokens kept (default: 0.5)")
    parser.add_argument("--corpus-pages", type=int, default=400, help="different pages in all (default: 400)")
    parser.add_argument(
        "--zipf", type=float, default=1.0, help="exponent of page popularity; 0: all alike (default: 1)"
    )
    parser.add_argument("--requests", type=int, default=200, help="requests of each step (default: 200)")
    parser.add_argument(
        "--long-requests", type=int, default=1000, help="requests of the step at 70 %% of saturation (default: 1000)"
    )
    parser.add_argument(
        "--output", help="name of the files in benchmarks/results (default: by what is sent and the device)"
    )
    parser.add_argument("--smoke", action="store_true", help="a few small requests; nothing is kept")
    parser.add_argument("service_flags", nargs="*", metavar="-- FLAG", help="flags for the service that is started")
    options = parser.parse_args()
    if options.smoke:
        options.pages, options.corpus_pages = 2, 8
    return options


def _plan(options: argparse.Namespace) -> LoadPlan:
    if options.smoke:
        return LoadPlan(concurrencies=(1, 2), loads=(0.5, LONG_RUN_LOAD), requests=4, long_requests=4)
    return LoadPlan(requests=options.requests, long_requests=options.long_requests)


def _workload(options: argparse.Namespace) -> dict[str, Any]:
    names = ("send", "pages", "keep_ratio", "corpus_pages", "zipf", "service_flags")
    return {name: getattr(options, name) for name in names}


async def _measure(url: str, corpus: Corpus, plan: LoadPlan, zipf: float) -> dict[str, Any]:
    chooser = make_chooser(corpus.size, zipf, seed=0)
    with tqdm(total=plan.total, unit="request") as progress:
        async with connect(url) as send:
            load = Load(url=url, send=send, requests=corpus.requests(chooser), progress=progress)
            await closed_loop(send, load.requests, concurrency=1, count=_WARM_UP_REQUESTS, on_done=lambda: None)
            closed = [await _closed_step(load, concurrency, plan.requests) for concurrency in plan.concurrencies]
            saturation = max(step["answered_per_second"] for step in closed)
            steps = [await _open_step(load, share, share * saturation, plan.count(share)) for share in plan.loads]
    return {
        "saturation_per_second": saturation,
        "closed_loop": closed,
        "open_loop": steps,
        "highest_rate_per_second": highest_rates(steps),
    }


async def _closed_step(load: Load, concurrency: int, count: int) -> dict[str, Any]:
    load.progress.set_description(f"closed loop, {concurrency} at a time")
    before = read_metrics(load.url)
    outcomes = await closed_loop(load.send, load.requests, concurrency=concurrency, count=count, on_done=load.advance)
    rates = hit_rates(before, read_metrics(load.url))
    return {"concurrency": concurrency, **summarise(outcomes), "cache_hit_rate": rates}


async def _open_step(load: Load, share: float, rate: float, count: int) -> dict[str, Any]:
    load.progress.set_description(f"open loop, {share:.0%} of saturation")
    before = read_metrics(load.url)
    arrivals = poisson_arrivals(rate, count, seed=round(share * 100))
    outcomes = await open_loop(load.send, load.requests, arrivals=arrivals, on_done=load.advance)
    rates = hit_rates(before, read_metrics(load.url))
    return {"load": share, "rate_per_second": round(rate, 3), **summarise(outcomes), "cache_hit_rate": rates}


if __name__ == "__main__":
    main()
