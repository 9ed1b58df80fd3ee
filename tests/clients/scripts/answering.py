"""The loop in which a family's script answers: a case a line on standard input, an answer a line on standard output."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a client is asked to do."""

    root: str  # the service's URL, without a path
    key: str
    model: str
    query: str
    documents: Sequence[Any]
    top_n: int | None


Ranking = Sequence[tuple[int, float]]
"""Pairs of a document's place in the request and its score, in the order in which the client gave them."""


def answer_cases(clients: Mapping[str, Callable[[Case], Ranking]]) -> None:
    """Answer until standard input ends: {"ranking": [[index, score], …]}, or {"error": what a traceback says}."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what clients print does not mix with the answers
    for line in sys.stdin:
        asked = json.loads(line)
        client = clients[asked.pop("client")]
        try:
            answer: dict[str, Any] = {"ranking": list(client(Case(**asked)))}
        except Exception as error:  # noqa: BLE001  the answer is what the client raised
            answer = {"error": " <- ".join(_chain(error))}
        print(json.dumps(answer), file=answers, flush=True)


def _chain(error: BaseException | None) -> Iterator[str]:
    """Class and text of an exception and of those that led to it."""
    while error is not None:
        yield "".join(traceback.format_exception_only(error)).strip()
        error = error.__cause__ or error.__context__
