"""Comparing runs in lower precision with the float32 run, as distances, not as equality."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from model import Reranker
from model.compressor import PageShare
from tests.compressors import SelectedBy
from tests.conformance import Case
from tests.oracle import oracle_logits

MOST_TIMES_AS_FAR = 1.5


def keeping(reranker: Reranker, kept: Sequence[Sequence[int]]) -> Reranker:
    """A reranker whose selection is given: the indices of one request's pages."""

    def select(similarity: torch.Tensor, pages: Sequence[PageShare]) -> torch.Tensor:
        starts = [sum(page.visual_tokens for page in pages[:index]) for index in range(len(pages))]
        indices = [start + index for start, page in zip(starts, kept, strict=True) for index in page]
        return torch.tensor(indices, device=similarity.device)

    return replace(reranker, compressor=SelectedBy(select))


def assert_bfloat16_is_close(
    exact: Reranker, half: Reranker, half_oracle: Qwen3VLForConditionalGeneration, cases: Sequence[Case]
) -> None:
    """Ours in bfloat16 is at most 1.5 times as far from float32 as transformers in bfloat16, on the same tokens.

    The distance is the root mean square over the letters of all cases. Of a single case the largest of a few differences is a
    matter of luck on either side: rounding the products alone makes it vary threefold.
    """
    our_squares: list[float] = []
    their_squares: list[float] = []
    for case in cases:
        request = exact.prepare(case.query, case.pages(), case.keep_ratio)
        truth, ours = (keeping(run, case.kept) if case.kept else run for run in (exact, half))
        [expected], [got] = truth.score([request]), ours.score([request])
        theirs = oracle_logits(half_oracle, exact, request, case.kept)
        our_squares += [(a - b) ** 2 for a, b in zip(got.logits, expected.logits, strict=True)]
        their_squares += [(a - b) ** 2 for a, b in zip(theirs, expected.logits, strict=True)]
    our_distance, their_distance = (math.sqrt(sum(squares) / len(squares)) for squares in (our_squares, their_squares))
    print(f"distance from float32: ours {our_distance:.4f}, transformers {their_distance:.4f}")
    assert our_distance <= MOST_TIMES_AS_FAR * their_distance
