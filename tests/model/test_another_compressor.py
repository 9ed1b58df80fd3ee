"""A compressor of somebody else, in this file alone: tokens at even distances, whatever the query is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from model import PreparedRequest, Reranker
from model.compressor import SimilarityCompressor
from tests.conformance import CASES


@dataclass(frozen=True, slots=True)
class EvenlySpaced:
    """Keeps the first of every few tokens of a page. Needs no values from the device, so it chooses on the host."""

    name: str = "evenly spaced"

    def kept_count(self, visual_tokens: int, keep_ratio: float) -> int:
        return max(1, int(visual_tokens * keep_ratio))

    def choose(self, visual: torch.Tensor, text: torch.Tensor, batch: Sequence[PreparedRequest]) -> torch.Tensor:
        kept, start = [], 0
        for request in batch:
            for page, count in zip(request.pages, request.kept_counts, strict=True):
                kept.append(start + torch.arange(count) * page.visual_token_count // count)
                start += page.visual_token_count
        return torch.cat(kept).to(visual.device)


def test_another_compressor_ranks_by_the_tokens_that_it_keeps(reranker: Reranker) -> None:
    other = replace(reranker, compressor=EvenlySpaced())
    pages = CASES[0].pages()
    ranking = other.rank(CASES[0].query, pages, 0.3)
    assert sorted(ranking.order) == list(range(len(pages)))
    assert ranking.windows[0].kept_tokens == sum(
        int(other.prepare_page(page).visual_token_count * 0.3) for page in pages
    )


@dataclass(frozen=True, slots=True)
class AsManyBySimilarity(EvenlySpaced):
    """Keeps as many tokens as `EvenlySpaced`, but those that the published rule chooses."""

    def choose(self, visual: torch.Tensor, text: torch.Tensor, batch: Sequence[PreparedRequest]) -> torch.Tensor:
        return SimilarityCompressor().choose(visual, text, batch)


def test_the_scores_are_those_of_the_tokens_that_were_chosen(reranker: Reranker) -> None:
    pages = CASES[0].pages()
    spaced, similar = (
        replace(reranker, compressor=compressor).rank(CASES[0].query, pages, 0.3)
        for compressor in (EvenlySpaced(), AsManyBySimilarity())
    )
    assert spaced.windows[0].kept_tokens == similar.windows[0].kept_tokens
    assert spaced.logits != similar.logits


def test_a_compressor_names_itself_in_the_description(reranker: Reranker) -> None:
    assert reranker.describe().compressor == "similarity"
    assert replace(reranker, compressor=EvenlySpaced()).describe().compressor == "evenly spaced"


def test_another_compressor_is_given_every_request_of_a_batch(reranker: Reranker) -> None:
    other = replace(reranker, compressor=EvenlySpaced())
    white, grey = (np.full((448, 320, 3), shade, dtype=np.uint8) for shade in (255, 128))
    first, second = other.prepare("a", [white, grey], 0.5), other.prepare("b", [grey], 0.1)
    assert [scores.kept_tokens for scores in other.score([first, second])] == [140, 14]
