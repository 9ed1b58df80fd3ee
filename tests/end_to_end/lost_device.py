"""`python -m service` on a card that is lost after the warm-up, and a process that then stays until it is let go.

The rest is the product: only the model's forward pass raises what a lost device raises. Between failing and ending it waits for
a line on the standard input, so that a test can ask the probes as long as it likes.
"""

import sys
from collections.abc import Sequence

from model import (
    DeviceLostError,
    Observe,
    PageScores,
    PendingScores,
    PreparedRequest,
    Reranker,
    no_observation,
)
from service.cli import main
from service.lifecycle import Lifecycle

_warm_up, _fail = Reranker.warm_up, Lifecycle.fail


def warm_up_and_lose(self: Reranker, *, observe: Observe = no_observation) -> PageScores:
    scores = _warm_up(self, observe=observe)
    Reranker.start = start_on_lost_device  # type: ignore[method-assign, assignment]
    return scores


def start_on_lost_device(
    self: Reranker, batch: Sequence[PreparedRequest], *, observe: object, between_layers: object = None
) -> PendingScores:
    raise DeviceLostError("The device failed. Restart the process to use it again: an illegal memory access")


def fail_and_wait(self: Lifecycle) -> None:
    _fail(self)
    sys.stdin.readline()


if __name__ == "__main__":
    Reranker.warm_up = warm_up_and_lose  # type: ignore[method-assign]
    Lifecycle.fail = fail_and_wait  # type: ignore[method-assign]
    sys.exit(main(["serve", *sys.argv[1:]]))
