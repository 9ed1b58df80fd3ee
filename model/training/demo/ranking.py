"""The second stage of the demo's training: the decoder learns to find the page that carries the query's words.

The tower is done with reading, so each page's features are computed once and lists are dealt from them: a step costs the
decoder alone. Helpers tell its inner layers what to look for: where some heads shall look (`guidance`), which visual tokens
match the query, which letter stands for a page, how many of the query's words are on it. A list has one answer only, and a
step few lists; so all pages are asked for their letters, as if the last layer had found each of them. Knows nothing of drawing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from model.attention import make_kernel
from model.config import MAX_WINDOW_SIZE
from model.dataflow import Observe, PackedSequences, PreparedPage, PreparedRequest, VisualTokens, no_observation
from model.forward_pass import ForwardPass, PackedBatch, PageFeatures, letter_logits
from model.qwen3_vl.network import Network
from model.reranker import Reranker
from model.training.demo.guidance import (
    Watcher,
    attention_loss,
    look_at,
    place_loss,
    sequence_starts,
    to_matches,
    to_places,
    to_words,
)
from model.training.demo.page_lists import ListShape, PageList
from model.training.demo.page_pool import PagePool
from model.training.demo.reading_labels import CLEAR_SHARE
from model.training.demo.vocabulary import words
from model.training.ranking_pass import in_one_dtype

MOST_QUERY_WORDS = 4
_MATCH_LAYER, _COUNT_LAYER = 1, 2
_ANCHOR = 3  # tokens before the first visual one: a word of the instruction, behind the query, at any number of pages
_HEAVIEST_MATCH = 20.0


FeaturesOf = Callable[[Sequence[int]], VisualTokens]
"""The visual tokens of pages, given by their places in a pool, end to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledFeatures:
    """Visual tokens of a step's pages that were computed before, whichever pages are asked for."""

    tokens: VisualTokens  # end to end
    encoder: PageFeatures  # merges DeepStack features

    def encode(self, pages: Sequence[PreparedPage], observe: Observe) -> VisualTokens:
        return self.tokens

    def finish(self, tokens: VisualTokens, observe: Observe) -> VisualTokens:
        return self.encoder.finish(tokens, observe)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingReport:
    """Of one step."""

    loss: torch.Tensor
    right: float  # share of lists whose right page came first
    by_chance: float  # what guessing gives
    found_words: float  # share of visual tokens with a word of the query where the first layer's guided head found it
    found_matches: float  # share of pages with such tokens whose end looked at one, in the second layer
    found_pages: float  # share of lists whose end looked at the right page's, in the last layer
    match_gap: float  # how much higher tokens of the query's words are held than others: mean difference of logits
    place_error: float  # of the attention by which a page's end tells its place in the list: mean difference of shares
    letters: float  # share of pages whose letter is the answer when the last layer looks at them


class Ranker(nn.Module):
    """A reranker's decoder with the heads that are asked. Its feature caches must be off."""

    def __init__(self, reranker: Reranker, pool_page: PreparedPage) -> None:
        """`pool_page`: any page of the pools' size."""
        super().__init__()
        width = reranker.model_config.text.hidden_size
        self.network = reranker.network
        self.norm = nn.RMSNorm(width, elementwise_affine=False)
        self.match = nn.Linear(width, 1)
        self.letter = nn.Linear(width, MAX_WINDOW_SIZE)
        self.count = nn.Linear(width, MOST_QUERY_WORDS + 1)
        self._reranker = reranker
        self._kernel = in_one_dtype(make_kernel("sdpa"))
        self._page = pool_page

    @property
    def page_tokens(self) -> int:
        """Visual tokens of a page."""
        return self._page.visual_token_count

    def forward(
        self, lists: Sequence[PageList], shape: ListShape, features_of: FeaturesOf, pool: PagePool, help_share: float
    ) -> RankingReport:
        """Rank the lists and answer the helper questions, whose part in the loss is `help_share`."""
        watcher = Watcher()
        forward_pass = self._forward_pass(lists, features_of, watcher)
        batch = forward_pass.pack([self._request(each, shape) for each in lists], no_observation)
        packed, text_ids = batch.sequences, _text_ids_of(batch)
        logits = self._letter_logits(forward_pass.read(packed))[:, : shape.pages]
        truth = _truth_of(lists, shape, pool, packed, batch.kept)
        looking = self._look(watcher, packed, text_ids, truth)
        asked = self._ask(watcher.states, packed, truth)
        named = self._name_pages(watcher, packed, truth, shape)
        placed, place_error = self._tell_places(watcher, packed, truth, shape)
        helpers = (
            sum(loss for loss, _ in looking.values()) + asked.loss + F.cross_entropy(named, truth.letters) + placed
        )
        return RankingReport(
            loss=F.cross_entropy(logits, truth.right) + help_share * helpers,
            right=_share(logits.argmax(-1) == truth.right),
            by_chance=1 / shape.pages,
            found_words=looking["words"][1],
            found_matches=looking["matches"][1],
            found_pages=looking["pages"][1],
            match_gap=asked.match_gap,
            place_error=place_error,
            letters=_share(named.argmax(-1) == truth.letters),
        )

    def _name_pages(self, watcher: Watcher, packed: PackedSequences, truth: "_Truth", shape: ListShape) -> torch.Tensor:
        """(N, letters): the answers that the last layer gives when its heads look at each page's end in turn."""
        language_model = self.network.model.language_model
        asking = packed.read_slots.repeat_interleave(shape.pages)
        hidden = look_at(watcher.input_of(language_model.layers[-1]), asking, truth.ends)
        return self._letter_logits(language_model.norm(hidden))[:, : shape.pages]

    def _tell_places(
        self, watcher: Watcher, packed: PackedSequences, truth: "_Truth", shape: ListShape
    ) -> tuple[torch.Tensor, float]:
        """Loss and mean error of the heads that tell how far behind the instruction a page's end is."""
        starts = sequence_starts(packed.cu_seqlens.to(truth.ends.device))
        first_visual = packed.visual_slots.view(len(truth.right), -1)[:, 0]
        anchors = (first_visual - _ANCHOR).repeat_interleave(shape.pages)
        return place_loss(watcher.inputs[0], truth.ends, truth.letters, anchors, starts)

    def _look(
        self, watcher: Watcher, packed: PackedSequences, text_ids: torch.Tensor, truth: "_Truth"
    ) -> dict[str, tuple[torch.Tensor, float]]:
        """Loss and success of the guided heads."""
        starts, count = sequence_starts(packed.cu_seqlens.to(text_ids.device)), len(text_ids)
        last_layer = self.network.model.language_model.layers[-1]
        right_ends = truth.ends.view(len(truth.right), -1).gather(1, truth.right[:, None]).flatten()
        looks = {
            "words": (watcher.inputs[0], to_words(text_ids, packed.visual_slots, truth.words, truth.is_clear, starts)),
            "matches": (watcher.inputs[1], to_matches(truth.ends, packed.visual_slots, truth.is_match, count)),
            "pages": (watcher.input_of(last_layer), to_places(packed.read_slots, right_ends, count)),
        }
        return {name: attention_loss(given, lookout, starts) for name, (given, lookout) in looks.items()}

    def _ask(self, states: Sequence[torch.Tensor], packed: PackedSequences, truth: "_Truth") -> "_Answers":
        """The questions to the inner layers."""
        held = self.match(self.norm(states[_MATCH_LAYER][packed.visual_slots])).flatten().float()
        letters = self.letter(self.norm(states[_MATCH_LAYER][truth.ends])).float()
        counts = self.count(self.norm(states[_COUNT_LAYER][truth.ends])).float()
        losses = (
            _match_loss(held[truth.is_clear], truth.is_match[truth.is_clear]),
            F.cross_entropy(letters, truth.letters),
            F.cross_entropy(counts, truth.word_counts),
        )
        return _Answers(
            loss=torch.stack(losses).sum(),
            match_gap=(held[truth.is_match].mean() - held[~truth.is_match].mean()).item(),
        )

    def _letter_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(rows, letters) of the last layer's normalised output."""
        return letter_logits(hidden, self.network.lm_head.weight[list(self._reranker.prompts.letter_ids)])

    def _forward_pass(self, lists: Sequence[PageList], features_of: FeaturesOf, watcher: Watcher) -> ForwardPass:
        tokens = features_of([page for each in lists for page in each.pages])
        return replace(
            self._reranker.forward_pass,
            features=PooledFeatures(tokens=tokens, encoder=self._reranker.encoder),
            kernel=self._kernel,
            run_layer=watcher,
        )

    def _request(self, each: PageList, shape: ListShape) -> PreparedRequest:
        return self._reranker.prepare(each.text, [self._page] * shape.pages, shape.keep_ratio)


def _text_ids_of(batch: PackedBatch) -> torch.Tensor:
    """int64 (S,): the text's ids in the packed sequences, -1 for visual tokens."""
    ids = torch.cat([batch.plan.text_ids, batch.plan.text_ids.new_full((len(batch.kept),), -1)])
    return ids.index_select(0, batch.plan.sources)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Truth:
    """Of B lists with N pages in all and K kept visual tokens."""

    right: torch.Tensor  # int64 (B,)
    letters: torch.Tensor  # int64 (N,): each page's place in its list
    ends: torch.Tensor  # int64 (N,): packed places behind each page's last visual token
    words: torch.Tensor  # int64 (K, n): words of the query that fill much of each visual token, -1 for none
    is_match: torch.Tensor  # bool (K,): whether there is one
    is_clear: torch.Tensor  # bool (K,): whether there is one, or no trace of one
    word_counts: torch.Tensor  # int64 (N,): different words of the query on each page


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    loss: torch.Tensor
    match_gap: float


def _truth_of(
    lists: Sequence[PageList], shape: ListShape, pool: PagePool, packed: PackedSequences, kept: torch.Tensor
) -> _Truth:
    device = kept.device
    found, traces = (torch.from_numpy(part).to(device).flatten(0, 2)[kept] for part in _query_words(lists, pool))
    is_match = (found >= 0).any(-1)
    return _Truth(
        right=torch.tensor([each.right for each in lists], device=device),
        letters=torch.arange(shape.pages, device=device).repeat(len(lists)),
        ends=packed.visual_slots.view(len(lists) * shape.pages, -1)[:, -1] + 1,
        words=found,
        is_match=is_match,
        is_clear=is_match | ~traces.any(-1),
        word_counts=torch.from_numpy(_word_counts(lists, pool)).to(device).flatten(),
    )


def _share(is_right: torch.Tensor) -> float:
    return is_right.float().mean().item()


def _query_words(lists: Sequence[PageList], pool: PagePool) -> tuple[np.ndarray, np.ndarray]:
    """int64 (lists, pages, V, n), the words of the query that fill much of each visual token, -1 elsewhere; and, as bool, where
    any word of the query is."""
    pages = [list(each.pages) for each in lists]
    under = np.stack([pool.labels.token_words[each] for each in pages]).astype(np.int64)
    shares = np.stack([pool.labels.token_shares[each] for each in pages])
    is_asked_for = np.stack([np.isin(each, query.query) for each, query in zip(under, lists, strict=True)])
    return np.where(is_asked_for & (shares >= CLEAR_SHARE), under, -1), is_asked_for


def _word_counts(lists: Sequence[PageList], pool: PagePool) -> np.ndarray:
    """int64 (lists, pages): how many of the query's words are on each page."""
    return np.array([[len(pool.known_words[page] & set(each.query)) for page in each.pages] for each in lists])


def _match_loss(held: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
    """Both kinds count alike, though few tokens match."""
    weight = ((~matches).sum() / matches.sum().clamp(min=1)).clamp(max=_HEAVIEST_MATCH)
    return F.binary_cross_entropy_with_logits(held, matches.float(), pos_weight=weight)


@torch.no_grad()
def align_lengths(network: Network, sample: torch.Tensor) -> None:
    """Give the words' embeddings and the visual tokens a root mean square of one, keeping directions.

    sample: visual tokens (V, D) of some pages. The DeepStack mergers are silenced until they are trained.
    """
    visual, embeddings = network.model.visual, network.model.language_model.embed_tokens.weight
    known = embeddings[: len(words())]
    known.copy_(F.normalize(known, dim=-1) * math.sqrt(known.shape[1]))
    scale = sample.float().pow(2).mean().rsqrt()
    for parameter in visual.merger.linear_fc2.parameters():
        parameter.mul_(scale)
    for name, parameter in visual.deepstack_merger_list.named_parameters():
        if "linear_fc2" in name:
            parameter.zero_()
