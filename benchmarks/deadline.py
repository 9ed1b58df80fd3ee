"""Answers in time: how many come within the time that the request names, what they give up for it, and what that costs.

The demo checkpoint behind the real service ranks made-up pages with known answers. The time that a list takes undisturbed is
measured first (its median); then requests name a share of it, or a multiple: with pages in the caches and with new ones, one at
a time and several at once. Each client is a process of its own.

    python -m benchmarks.deadline --keep                # about half an hour on two cores
    python -m benchmarks.deadline --smoke
"""

import argparse
import base64
import io
import json
import math
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import Any

from PIL import Image

from benchmarks import results_file
from benchmarks.http_load.target import started_service
from model.checkpoint import find_checkpoint, read_model_config
from model.training.demo.page_pool import PagePool, draw_pool
from model.training.demo.quality import HELD_OUT_POOL, deal_lists
from model.training.demo.recipe import read_recipe
from model.training.demo.run import style_of

IN_TIME = 1.1  # of the time that was named
_DRAWN = 150  # pages, of which those with too few words are left out
_FEWEST_WORDS = 100
_PRINT_POINTS = 28.0
_PLACES = 10  # that nDCG looks at


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request, and its right answer."""

    body: Path
    right: int  # place of the right page in the request


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    milliseconds: float
    timeout_ms: int | None
    status: int
    given_up: tuple[str, ...]  # names of the parts
    place: int | None  # of the right page, from 0; None: the request was refused

    @property
    def is_in_time(self) -> bool:
        return self.timeout_ms is None or self.milliseconds <= IN_TIME * self.timeout_ms


class Client:
    """One process, which sends one request at a time."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        command = [sys.executable, "-m", "benchmarks.timed_client", host, port]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, question: Question, *, key: str, timeout_ms: int | None) -> Answer:
        assert self._process.stdin is not None and self._process.stdout is not None, "both are pipes"
        self._process.stdin.write(json.dumps({"body": str(question.body), "key": key, "timeout_ms": timeout_ms}) + "\n")
        self._process.stdin.flush()
        read = json.loads(self._process.stdout.readline())
        parts = (read["degraded"] or "").split(", ")
        return Answer(
            milliseconds=read["ms"],
            timeout_ms=timeout_ms,
            status=read["status"],
            given_up=tuple(part.partition("=")[0] for part in parts if part),
            place=read["order"].index(question.right) if read["order"] else None,
        )

    def close(self) -> None:
        assert self._process.stdin is not None, "it is a pipe"
        self._process.stdin.close()
        self._process.wait()


class Clients:
    """Asks questions, several at once. New pages are those of a key that nobody has sent before."""

    def __init__(self, url: str, count: int) -> None:
        self._idle: SimpleQueue[Client] = SimpleQueue()
        self._all = [Client(url) for _ in range(count)]
        for client in self._all:
            self._idle.put(client)

    def ask(
        self, questions: Sequence[Question], *, at_once: int, is_cached: bool, timeout_ms: int | None = None
    ) -> list[Answer]:
        def ask_one(question: Question) -> Answer:
            client = self._idle.get()
            try:
                return client.ask(question, key="cached" if is_cached else uuid.uuid4().hex, timeout_ms=timeout_ms)
            finally:
                self._idle.put(client)

        with ThreadPoolExecutor(at_once) as threads:
            return list(threads.map(ask_one, questions))

    def close(self) -> None:
        for client in self._all:
            client.close()


def main() -> None:
    options = _parse_options()
    if options.smoke:
        options.lists, options.pages, options.shares, options.at_once = 2, [20], [0.3, 1.0], [2]
    results = []
    with tempfile.TemporaryDirectory() as folder, _clients(max(options.at_once)) as clients:
        pool = _draw(options.seed)
        for count in options.pages:
            questions = _questions(pool, count, options.lists, Path(folder), options.seed)
            for is_cached in (True, False):
                results.append(_measure(clients, questions, options, pages=count, is_cached=is_cached))
    summary = {"in_time": IN_TIME, "share_in_time": _share_in_time(results), "groups": results}
    print(f"{summary['share_in_time']:.2%} of all answers came within {IN_TIME} times their time", file=sys.stderr)
    if options.keep:
        results_file.write(f"deadline_{results_file.machine_name()}", summary)
    else:
        print(json.dumps(summary))


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", type=int, default=12, help="requests of each kind (default: 12)")
    parser.add_argument("--pages", type=int, nargs="+", default=[20, 60], help="in a list (default: 20 60)")
    parser.add_argument(
        "--shares",
        type=float,
        nargs="+",
        default=[0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0],
        help="times that are named, in undisturbed times (default: 0.2 to 2)",
    )
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 4], help="requests at once (default: 1 4)")
    parser.add_argument("--seed", type=int, default=1, help="of the pages and questions (default: 1)")
    parser.add_argument("--smoke", action="store_true", help="few requests, to see whether it runs")
    parser.add_argument("--keep", action="store_true", help="keep the result")
    return parser.parse_args()


@contextmanager
def _clients(count: int) -> Iterator[Clients]:
    """Clients of a service of their own."""
    with started_service("demo", ["--cache-scope", "per_key"]) as url:
        clients = Clients(url, count)
        try:
            yield clients
        finally:
            clients.close()


def _draw(seed: int) -> PagePool:
    recipe = replace(read_recipe("small"), seed=seed)
    style = replace(style_of(recipe.world), smallest_print=_PRINT_POINTS, largest_print=_PRINT_POINTS)
    image = read_model_config(find_checkpoint("demo").folder).image
    return draw_pool(recipe.page_seeds(HELD_OUT_POOL, _DRAWN), style, image, fewest_words=_FEWEST_WORDS)


def _questions(pool: PagePool, pages: int, count: int, folder: Path, seed: int) -> list[Question]:
    questions = []
    for number, dealt in enumerate(deal_lists(pool, pages, count, seed=seed)):
        documents = [{"image": _png(pool, page), "id": str(page)} for page in dealt.pages]
        body = folder / f"{pages}_{number}.json"
        body.write_text(json.dumps({"query": dealt.text, "documents": documents}))
        questions.append(Question(body=body, right=dealt.right))
    return questions


def _png(pool: PagePool, page: int) -> str:
    stream = io.BytesIO()
    Image.fromarray(pool.pixels[page]).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def _measure(
    clients: Clients, questions: Sequence[Question], options: argparse.Namespace, *, pages: int, is_cached: bool
) -> dict[str, Any]:
    """One length of lists, with pages that are in the caches or not."""
    if is_cached:
        clients.ask(questions, at_once=1, is_cached=True)
    full = clients.ask(questions, at_once=1, is_cached=is_cached)
    undisturbed_ms = median(answer.milliseconds for answer in full)
    name = f"{pages} pages, {'in the caches' if is_cached else 'new'}"
    print(f"{name}: {undisturbed_ms:.0f} ms undisturbed, {_quality(full)}", file=sys.stderr)
    cells = []
    for at_once in options.at_once:
        for share in options.shares:
            timeout_ms = max(1, round(share * undisturbed_ms))
            answers = clients.ask(questions, at_once=at_once, is_cached=is_cached, timeout_ms=timeout_ms)
            cells.append({"at_once": at_once, "share": share, "timeout_ms": timeout_ms, **_summary(answers)})
            print(f"{name}: {json.dumps(cells[-1])}", file=sys.stderr)
    return {
        "pages": pages,
        "cached": is_cached,
        "undisturbed_ms": round(undisturbed_ms, 1),
        "full": {"answers": len(full), **_quality(full)},
        "cells": cells,
    }


def _summary(answers: Sequence[Answer]) -> dict[str, Any]:
    times = sorted(answer.milliseconds / (answer.timeout_ms or math.inf) for answer in answers)
    return {
        "answers": len(answers),
        "in_time": sum(answer.is_in_time for answer in answers),
        "latest": round(times[-1], 3),
        "refused": sum(answer.status != 200 for answer in answers),
        "whole": sum(answer.status == 200 and not answer.given_up for answer in answers),
        "given_up": dict(Counter(name for answer in answers for name in answer.given_up)),
        **_quality(answers),
    }


def _quality(answers: Sequence[Answer]) -> dict[str, float]:
    """Recall@1 and nDCG@10 over the answers, of which a refusal has neither; each list has one right page."""
    places = [answer.place for answer in answers]
    gains = [1 / math.log2(2 + place) if place is not None and place < _PLACES else 0.0 for place in places]
    return {
        "recall_at_1": round(sum(place == 0 for place in places) / len(places), 3),
        "ndcg_at_10": round(sum(gains) / len(gains), 3),
    }


def _share_in_time(groups: Sequence[dict[str, Any]]) -> float:
    cells = [cell for group in groups for cell in group["cells"]]
    return float(sum(cell["in_time"] for cell in cells) / sum(cell["answers"] for cell in cells))


if __name__ == "__main__":
    main()
