"""The services that programs are replayed against: their model ranks pages by place alone, in an order that no client sends."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from model import PageScores, PreparedRequest, Reranker
from service.commands.demo import PDF
from tests.patience import eventually
from tests.servers import RunningService, fake_loader, running_service

KEY = "a-key-of-the-replays"
REGISTERED = "town-guide"
WINDOW = 20
_STEP = 0.35
"""Between the logits of neighbours. Twenty relative scores then go from 1 to 0.0013, with all digits that a double has."""


def best_first(count: int) -> list[int]:
    """Places of the pages of a window: the odd ones, then the even ones."""
    return [*range(1, count, 2), *range(0, count, 2)]


def relative_scores(count: int) -> dict[int, float]:
    """The score of each place of one window."""
    return {place: math.exp(-_STEP * rank) for rank, place in enumerate(best_first(count))}


def _score(batch: Sequence[PreparedRequest]) -> list[PageScores]:
    return [
        PageScores(
            logits=tuple(math.log(relative_scores(len(request.pages))[place]) for place in range(len(request.pages))),
            order=tuple(best_first(len(request.pages))),
            visual_tokens=request.visual_token_count,
            kept_tokens=request.kept_token_count,
            prompt_tokens=request.token_count,
        )
        for request in batch
    ]


@contextmanager
def replay_service(reranker: Reranker, *, key: str | None) -> Iterator[RunningService]:
    """A service with the demo's PDF registered. key: that it requires; None: none."""
    with running_service(fake_loader(reranker, _score), api_key=key) as running:
        headers = {"Content-Type": "application/pdf", **({} if key is None else {"Authorization": f"Bearer {key}"})}
        path = f"/documents/{REGISTERED}"
        running.client.put(path, content=PDF.read_bytes(), headers=headers).raise_for_status()
        eventually(lambda: running.client.get(path, headers=headers).json()["state"] == "ready", "the PDF is processed")
        yield running
