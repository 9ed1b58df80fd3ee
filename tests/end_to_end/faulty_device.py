"""`python -m service` on a device with faults, which the numbers of pages of requests bring about after the warm-up.

The rest is the product: the faults occur inside the forward pass, as torch would raise them there.
"""

import ctypes
import sys
import threading
import time
from collections.abc import Sequence

import torch

from model import Observe, PageScores, PreparedRequest, Reranker, no_observation
from model.forward_pass import ForwardPass, PackedBatch
from service.cli import main

# The numbers of pages of a request.
BROKEN = 2  # the batch raises an error
NOT_A_NUMBER = 3  # the request has no finite score
GATE = 4  # the batch waits for a line on the standard input
HANGS = 5  # the batch never ends; Python goes on
HOLDS_THE_INTERPRETER = 6  # the batch never ends, and no other thread can run Python
SLOW = 7  # the batch takes two seconds more
MOST_REQUESTS = 4  # of one batch; more do not fit into the memory of the device

_pack, _read, _warm_up = ForwardPass.pack, ForwardPass.read_observed, Reranker.warm_up
_packed_counts: dict[int, list[int]] = {}  # numbers of pages of each batch that is on its way, by its id


def pack_with_faults(
    self: ForwardPass, batch: Sequence[PreparedRequest], observe: Observe, read_counts: Sequence[int] | None = None
) -> PackedBatch:
    counts = [len(request.pages) for request in batch]
    if GATE in counts:
        sys.stdin.readline()
    if SLOW in counts:
        time.sleep(2)
    if HANGS in counts:
        threading.Event().wait()
    if HOLDS_THE_INTERPRETER in counts:
        ctypes.PyDLL(None).sleep(1_000_000)
    if len(batch) > MOST_REQUESTS:
        raise torch.OutOfMemoryError(f"{len(batch)} requests do not fit")
    if BROKEN in counts:
        raise RuntimeError("a shape that no kernel takes, at 0x7f00")
    packed = _pack(self, batch, observe, read_counts)
    _packed_counts[id(packed)] = counts
    return packed


def read_with_faults(self: ForwardPass, packed: PackedBatch, observe: Observe) -> torch.Tensor:
    hidden = _read(self, packed, observe)
    for row, count in zip(hidden, _packed_counts.pop(id(packed)), strict=True):
        if count == NOT_A_NUMBER:
            row.fill_(torch.nan)
    return hidden


def warm_up_and_break(self: Reranker, *, observe: Observe = no_observation) -> PageScores:
    scores = _warm_up(self, observe=observe)
    ForwardPass.pack = pack_with_faults  # type: ignore[method-assign]
    ForwardPass.read_observed = read_with_faults  # type: ignore[method-assign]
    return scores


if __name__ == "__main__":
    Reranker.warm_up = warm_up_and_break  # type: ignore[method-assign]
    sys.exit(main(["serve", *sys.argv[1:]]))
