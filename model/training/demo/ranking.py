"""The second stage of the demo's training: the decoder learns to find the page with the words of the query.

The vision tower is trained already, so the features of each page are computed once and reused in many lists; a step runs the
decoder alone. The ranking loss gives one answer per list, and a step has few lists, so auxiliary losses train the inner layers:

    guidance   some heads should attend to given tokens (`guidance`)
    probes     from inner states: whether a visual token matches the query, the letter of a page, and the number of words of
               the query on it
    letters    the last layer should answer the letter of any page when its heads attend to the end of that page alone
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
    LayerRecorder,
    attend_only_to,
    attention_loss,
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
_ANCHOR = 3  # tokens before the first visual token: a word of the instruction after the query, for any number of pages
_MAX_MATCH_WEIGHT = 20.0

FeaturesOf = Callable[[Sequence[int]], VisualTokens]
"""Maps page numbers of a pool to their visual tokens, end to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledFeatures:
    """Precomputed visual tokens of the pages of a step. `encode` returns them regardless of its pages."""

    tokens: VisualTokens  # end to end
    encoder: PageFeatures  # merges DeepStack features

    def encode(self, pages: Sequence[PreparedPage], observe: Observe) -> VisualTokens:
        return self.tokens

    def finish(self, tokens: VisualTokens, observe: Observe) -> VisualTokens:
        return self.encoder.finish(tokens, observe)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingReport:
    """Losses and measurements of one step."""

    loss: torch.Tensor
    right: float  # share of lists with the right page first
    by_chance: float  # the same share for guessing
    found_words: float  # of visual tokens with a word of the query: share found by the first layer's guided heads
    found_matches: float  # of pages with such tokens: share found by the second layer's guided heads
    found_pages: float  # share of lists whose right page was found by the last layer's heads
    match_gap: float  # mean logit of the match probe for matching tokens minus that for others
    place_error: float  # mean error of the attention shares that encode a page's place in the list
    letters: float  # share of pages whose letter the last layer answers if it attends to them alone


class Ranker(nn.Module):
    """A reranker's decoder with linear probes on its inner layers. The reranker's feature cache must be off."""

    def __init__(self, reranker: Reranker, pool_page: PreparedPage) -> None:
        """pool_page: any page with the size of the pools' pages."""
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
        """Rank the lists and compute the loss, in which the auxiliary losses have the weight `help_share`."""
        recorder = LayerRecorder()
        forward_pass = self._forward_pass(lists, features_of, recorder)
        batch = forward_pass.pack([self._request(each, shape) for each in lists], no_observation)
        packed, text_ids = batch.sequences, _text_ids_of(batch)
        logits = self._letter_logits(forward_pass.read(packed))[:, : shape.pages]
        labels = _labels_of(lists, shape, pool, packed, batch.kept)
        guided = self._guide_heads(recorder, packed, text_ids, labels)
        probed = self._probe_states(recorder.states, packed, labels)
        page_letters = self._letters_of_pages(recorder, packed, labels, shape)
        guided_places, place_error = self._guide_places(recorder, packed, labels, shape)
        letter_loss = F.cross_entropy(page_letters, labels.letters)
        auxiliary = sum(loss for loss, _ in guided.values()) + probed.loss + letter_loss + guided_places
        return RankingReport(
            loss=F.cross_entropy(logits, labels.right) + help_share * auxiliary,
            right=_share(logits.argmax(-1) == labels.right),
            by_chance=1 / shape.pages,
            found_words=guided["words"][1],
            found_matches=guided["matches"][1],
            found_pages=guided["pages"][1],
            match_gap=probed.match_gap,
            place_error=place_error,
            letters=_share(page_letters.argmax(-1) == labels.letters),
        )

    def _letters_of_pages(
        self, recorder: LayerRecorder, packed: PackedSequences, labels: "_Labels", shape: ListShape
    ) -> torch.Tensor:
        """Letter logits (N, letters) of the last layer if its heads attend to the end of one page alone, for each page."""
        language_model = self.network.model.language_model
        slots = packed.read_slots.repeat_interleave(shape.pages)  # (N,)
        hidden = attend_only_to(recorder.input_of(language_model.layers[-1]), slots, labels.ends)  # (N, D)
        return self._letter_logits(language_model.norm(hidden))[:, : shape.pages]

    def _guide_places(
        self, recorder: LayerRecorder, packed: PackedSequences, labels: "_Labels", shape: ListShape
    ) -> tuple[torch.Tensor, float]:
        """Loss and mean error of the heads that encode the place of a page, measured from the instruction."""
        starts = sequence_starts(packed.cu_seqlens.to(labels.ends.device))
        first_visual = packed.visual_slots.view(len(labels.right), -1)[:, 0]
        anchors = (first_visual - _ANCHOR).repeat_interleave(shape.pages)
        return place_loss(recorder.inputs[0], labels.ends, labels.letters, anchors, starts)

    def _guide_heads(
        self, recorder: LayerRecorder, packed: PackedSequences, text_ids: torch.Tensor, labels: "_Labels"
    ) -> dict[str, tuple[torch.Tensor, float]]:
        """Loss and success rate of the guided heads, by target."""
        starts, count = sequence_starts(packed.cu_seqlens.to(text_ids.device)), len(text_ids)
        last_layer = self.network.model.language_model.layers[-1]
        right_ends = labels.ends.view(len(labels.right), -1).gather(1, labels.right[:, None]).flatten()
        targets_by_name = {
            "words": (
                recorder.inputs[0],
                to_words(text_ids, packed.visual_slots, labels.words, labels.is_clear, starts),
            ),
            "matches": (recorder.inputs[1], to_matches(labels.ends, packed.visual_slots, labels.is_match, count)),
            "pages": (recorder.input_of(last_layer), to_places(packed.read_slots, right_ends, count)),
        }
        return {name: attention_loss(given, targets, starts) for name, (given, targets) in targets_by_name.items()}

    def _probe_states(
        self, states: Sequence[torch.Tensor], packed: PackedSequences, labels: "_Labels"
    ) -> "_ProbeResult":
        """Loss of the probes on the inner layers. states: output (S, D) of each layer."""
        matches = self.match(self.norm(states[_MATCH_LAYER][packed.visual_slots])).flatten().float()  # (K,)
        letters = self.letter(self.norm(states[_MATCH_LAYER][labels.ends])).float()  # (N, letters)
        counts = self.count(self.norm(states[_COUNT_LAYER][labels.ends])).float()  # (N, words + 1)
        losses = (
            _match_loss(matches[labels.is_clear], labels.is_match[labels.is_clear]),
            F.cross_entropy(letters, labels.letters),
            F.cross_entropy(counts, labels.word_counts),
        )
        return _ProbeResult(
            loss=torch.stack(losses).sum(),
            match_gap=(matches[labels.is_match].mean() - matches[~labels.is_match].mean()).item(),
        )

    def _letter_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Letter logits (rows, letters) of normalised hidden states (rows, D)."""
        return letter_logits(hidden, self.network.lm_head.weight[list(self._reranker.prompts.letter_ids)])

    def _forward_pass(self, lists: Sequence[PageList], features_of: FeaturesOf, recorder: LayerRecorder) -> ForwardPass:
        tokens = features_of([page for each in lists for page in each.pages])
        return replace(
            self._reranker.forward_pass,
            features=PooledFeatures(tokens=tokens, encoder=self._reranker.encoder),
            kernel=self._kernel,
            run_layer=recorder,
        )

    def _request(self, each: PageList, shape: ListShape) -> PreparedRequest:
        return self._reranker.prepare(each.text, [self._page] * shape.pages, shape.keep_ratio)


def _text_ids_of(batch: PackedBatch) -> torch.Tensor:
    """Text ids of the packed tokens, int64 (S,), -1 for visual tokens."""
    ids = torch.cat([batch.plan.text_ids, batch.plan.text_ids.new_full((len(batch.kept),), -1)])
    return ids.index_select(0, batch.plan.sources)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Labels:
    """Labels of B lists with N pages in all and K kept visual tokens."""

    right: torch.Tensor  # int64 (B,): place of the right page
    letters: torch.Tensor  # int64 (N,): place of each page in its list
    ends: torch.Tensor  # int64 (N,): packed position after the last visual token of each page
    words: torch.Tensor  # int64 (K, n): ids of the query's words that fill enough of each visual token; -1: none
    is_match: torch.Tensor  # bool (K,): whether the token has such a word
    is_clear: torch.Tensor  # bool (K,): whether it has such a word, or no part of any word of the query
    word_counts: torch.Tensor  # int64 (N,): number of different words of the query on each page


@dataclass(frozen=True, slots=True, kw_only=True)
class _ProbeResult:
    """Loss of all probes, and the gap as in `RankingReport`."""

    loss: torch.Tensor
    match_gap: float


def _labels_of(
    lists: Sequence[PageList], shape: ListShape, pool: PagePool, packed: PackedSequences, kept: torch.Tensor
) -> _Labels:
    device = kept.device
    found, traces = (torch.from_numpy(part).to(device).flatten(0, 2)[kept] for part in _query_words(lists, pool))
    is_match = (found >= 0).any(-1)
    return _Labels(
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
    """For each visual token, the words of the query that fill enough of it, and whether any word of the query touches it.

    int64 (lists, pages, V, n), -1 for none; bool of the same shape.
    """
    pages = [list(each.pages) for each in lists]
    under = np.stack([pool.labels.token_words[each] for each in pages]).astype(np.int64)
    shares = np.stack([pool.labels.token_shares[each] for each in pages])
    is_asked_for = np.stack([np.isin(each, query.query) for each, query in zip(under, lists, strict=True)])
    return np.where(is_asked_for & (shares >= CLEAR_SHARE), under, -1), is_asked_for


def _word_counts(lists: Sequence[PageList], pool: PagePool) -> np.ndarray:
    """int64 (lists, pages): number of the query's words on each page."""
    return np.array([[len(pool.known_words[page] & set(each.query)) for page in each.pages] for each in lists])


def _match_loss(logits: torch.Tensor, is_match: torch.Tensor) -> torch.Tensor:
    """The loss of the match probe. Few tokens match, so matches are weighted to count as much as the others. Both (tokens,)."""
    weight = ((~is_match).sum() / is_match.sum().clamp(min=1)).clamp(max=_MAX_MATCH_WEIGHT)
    return F.binary_cross_entropy_with_logits(logits, is_match.float(), pos_weight=weight)


@torch.no_grad()
def align_lengths(network: Network, sample: torch.Tensor) -> None:
    """Scale the words' embeddings and the visual tokens to a root mean square of one, keeping directions.

    sample: visual tokens (V, D) of some pages. The DeepStack mergers are set to output zero until they are trained.
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
