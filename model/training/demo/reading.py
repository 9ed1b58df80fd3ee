"""The first stage of the demo's training: the vision tower learns to read.

Five questions at once, from easy to hard: which letters lie under a patch (asked halfway up the tower), how the word under it
is spelled, which word it is, which words lie under a visual token, and for each word, whether it lies there. The last three
are answered by the cosine with the words' embeddings, which are learned with them: so a visual token points where the text
tokens of its words point, and that is what the compressor and the decoder look for. The spelling rewards a word that is half
read; the question for the word itself does not. The last question has one threshold for all words and tokens: without it
the cosine of a token with its word was small (a median of 0.13 on pages), and its distance from chance smaller.

Bands of a page cost far less than whole pages, and words are local. Knows nothing of queries and rankings.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from model.attention import AttentionKernel, PackedAttention, make_kernel
from model.compilation import RunLayer, run_layer
from model.config import ModelConfig
from model.dataflow import PreparedPage
from model.device import upload
from model.image_processor import to_patches
from model.qwen3_vl.network import Network
from model.qwen3_vl.vision_encoder import PatchLayout, lay_out_patches
from model.training.demo.blank_checkpoint import EARLY_BLOCK
from model.training.demo.page_pool import PagePool
from model.training.demo.reading_labels import (
    CLEAR_SHARE,
    NO_WORD,
    SPELLED_LETTERS,
    SPELLING_CLASSES,
    STRANGE_WORD,
    ReadingLabels,
)
from model.training.demo.vocabulary import words

_ANSWERED_PATCHES = 900  # with a word; answers to all patches of a batch would cost more than the tower
_ANSWERED_BLANKS = 200
_ANSWERED_TOKENS = 500
_ANSWERED_BLANK_TOKENS = 150
_SHARPEST = 60.0
_STEEPNESS, _THRESHOLD = 20.0, 0.3  # of the cosine, for a word to be told


@dataclass(frozen=True, slots=True, kw_only=True)
class Bands:
    """Horizontal bands at one height of B pages. P patches and V tokens over all of them."""

    patches: torch.Tensor  # float32 (P, 1536)
    layout: PatchLayout
    words: torch.Tensor  # int64 (P,)
    spelling: torch.Tensor  # int64 (P, SPELLED_LETTERS)
    letters: torch.Tensor  # float32 (P, 26)
    token_words: torch.Tensor  # int64 (V, WORDS_IN_TOKEN)
    token_shares: torch.Tensor  # float32 (V, WORDS_IN_TOKEN)

    def upload(self, device: torch.device) -> "Bands":
        return Bands(
            patches=upload(self.patches, device),
            layout=self.layout.upload(device),
            words=upload(self.words, device),
            spelling=upload(self.spelling, device),
            letters=upload(self.letters, device),
            token_words=upload(self.token_words, device),
            token_shares=upload(self.token_shares, device),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingReport:
    """Of one step: the loss, and how many of the questions were answered rightly."""

    loss: torch.Tensor
    first_letters: float  # share of patches whose word's first letter was told
    words: float  # share of patches whose word was told
    token_words: float  # share of tokens that pointed to one of their words
    told: float  # share of the words on tokens whose cosine passed the threshold
    false_alarms: float  # words a token that passed it and were not there


class Reader(nn.Module):
    """The tower with the heads that are asked."""

    def __init__(self, network: Network, config: ModelConfig) -> None:
        super().__init__()
        width, text_width = config.vision.hidden_size, config.text.hidden_size
        self.visual = network.model.visual
        self.embeddings = network.model.language_model.embed_tokens
        self.others = nn.Embedding(2, text_width)  # in place of a word: none, and one that is not known
        self.letters = nn.Linear(width, 26)
        self.norm = nn.LayerNorm(width)
        self.spelling = nn.Linear(width, SPELLED_LETTERS * SPELLING_CLASSES)
        self.word = nn.Linear(width, text_width)
        self.sharpness = nn.Parameter(torch.tensor(math.log(10.0)))
        self._kernel: AttentionKernel = make_kernel("sdpa")

    def forward(self, bands: Bands) -> ReadingReport:
        """Ask about some patches and tokens of `bands`, chosen by torch's random numbers."""
        states: list[torch.Tensor] = []
        tokens = self.visual(bands.patches, bands.layout, self._kernel, noting(states)).main
        asked = _some_patches(bands.words)
        late = self.norm(states[-1][asked])
        directions = self._directions()
        letters = F.binary_cross_entropy_with_logits(
            self.letters(states[EARLY_BLOCK][asked]).float(), bands.letters[asked], reduction="none"
        )
        spelling, first_letters = self._ask_spelling(late, bands, asked)
        word, words_told = self._ask_words(late, bands.words[asked], directions)
        token, tokens_told = self._ask_tokens(tokens, bands, directions[: len(words())])
        each, told, false_alarms = self._ask_for_each_word(tokens, bands)
        loss = letters.sum(-1).mean() + 0.5 * spelling + word + token + each
        return ReadingReport(
            loss=loss,
            first_letters=first_letters,
            words=words_told,
            token_words=tokens_told,
            told=told,
            false_alarms=false_alarms,
        )

    def _directions(self) -> torch.Tensor:
        """(words + 2, D): of the words, of no word, of a strange one, sharpened."""
        table = torch.cat([self.embeddings.weight[: len(words())], self.others.weight])
        return F.normalize(table, dim=-1) * self.sharpness.exp().clamp(max=_SHARPEST)

    def _ask_spelling(self, late: torch.Tensor, bands: Bands, asked: torch.Tensor) -> tuple[torch.Tensor, float]:
        has_word = bands.words[asked] != NO_WORD
        logits = self.spelling(late[has_word]).view(-1, SPELLED_LETTERS, SPELLING_CLASSES).float()
        truth = bands.spelling[asked][has_word]
        loss = F.cross_entropy(logits.flatten(0, 1), truth.flatten()) * SPELLED_LETTERS
        return loss, _share(logits[:, 0].argmax(-1) == truth[:, 0])

    def _ask_words(
        self, late: torch.Tensor, truth: torch.Tensor, directions: torch.Tensor
    ) -> tuple[torch.Tensor, float]:
        count = len(words())
        truth = torch.where(truth == NO_WORD, count, torch.where(truth == STRANGE_WORD, count + 1, truth))
        logits = (F.normalize(self.word(late).float(), dim=-1) @ directions.T).float()
        is_known = truth < count
        return F.cross_entropy(logits, truth), _share(logits.argmax(-1)[is_known] == truth[is_known])

    def _ask_tokens(self, tokens: torch.Tensor, bands: Bands, directions: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Cross-entropy against the words' shares of the token's print."""
        asked = _choose(bands.token_words[:, 0] != NO_WORD, _ANSWERED_TOKENS)
        truth, shares = bands.token_words[asked], bands.token_shares[asked]
        logits = (F.normalize(tokens[asked].float(), dim=-1) @ directions.T).float()
        chances = logits.log_softmax(-1).gather(1, truth.clamp(min=0))
        told = (logits.argmax(-1)[:, None] == truth).any(-1)
        return -(chances * shares).sum(-1).mean(), _share(told)

    def _ask_for_each_word(self, tokens: torch.Tensor, bands: Bands) -> tuple[torch.Tensor, float, float]:
        """Binary cross-entropy, summed over the words.  Source: SigLIP (arXiv 2303.15343), with a fixed scale and bias."""
        has_word = bands.token_words[:, 0] != NO_WORD
        asked = torch.cat([_choose(has_word, _ANSWERED_TOKENS), _choose(~has_word, _ANSWERED_BLANK_TOKENS)])
        shares = self._shares(bands.token_words[asked], bands.token_shares[asked])
        cosines = (
            F.normalize(tokens[asked].float(), dim=-1) @ F.normalize(self.embeddings.weight[: len(words())], dim=-1).T
        )
        logits = _STEEPNESS * (cosines.float() - _THRESHOLD)
        is_there, is_clear = shares >= CLEAR_SHARE, (shares >= CLEAR_SHARE) | (shares == 0)
        losses = F.binary_cross_entropy_with_logits(logits, is_there.float(), reduction="none")
        false_alarms = ((logits > 0) & (shares == 0)).sum(-1).float().mean().item()
        return (losses * is_clear).sum(-1).mean(), _share(logits[is_there] > 0), false_alarms

    def _shares(self, token_words: torch.Tensor, token_shares: torch.Tensor) -> torch.Tensor:
        """float32 (tokens, words): each known word's share of a token's print."""
        shares = token_shares.new_zeros(len(token_words), len(words()))
        is_known = token_words >= 0
        return shares.scatter_add_(1, token_words.clamp(min=0), token_shares * is_known)


def noting(states: list[torch.Tensor]) -> RunLayer:
    """Runs a layer and keeps what came out."""

    def run(
        layer: nn.Module, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: PackedAttention
    ) -> torch.Tensor:
        states.append(run_layer(layer, hidden, cos, sin, attend))
        return states[-1]

    return run


def _some_patches(truth: torch.Tensor) -> torch.Tensor:
    return torch.cat([_choose(truth != NO_WORD, _ANSWERED_PATCHES), _choose(truth == NO_WORD, _ANSWERED_BLANKS)])


def _choose(is_candidate: torch.Tensor, most: int) -> torch.Tensor:
    """Indices of at most that many of them."""
    candidates = is_candidate.nonzero().flatten()
    return candidates[torch.randperm(len(candidates), device=candidates.device)[:most]]


def _share(is_right: torch.Tensor) -> float:
    return is_right.float().mean().item() if len(is_right) else math.nan


class BandSampler:
    """Random bands of random pages of a pool."""

    def __init__(self, pool: PagePool, config: ModelConfig) -> None:
        self._pool = pool
        self._config = config
        self._rows = pool.pixels.shape[1] // config.image.grid_unit
        self._columns = pool.pixels.shape[2] // config.image.grid_unit
        page = PreparedPage(pixels=pool.pixels[0], rows=self._rows, columns=self._columns, content_hash=b"")
        self._page_layout = lay_out_patches([page], config.vision)

    def sample(self, token_count: int, band_rows: int, chance: np.random.Generator) -> Bands:
        """Bands at one height of so many rows of visual tokens, at most whole pages, and about so many tokens in all."""
        band_rows = min(band_rows, self._rows)
        count = max(1, round(token_count / (band_rows * self._columns)))
        pages = chance.choice(len(self._pool), count, replace=False)
        first = int(chance.integers(0, self._rows - band_rows + 1))
        tokens = slice(first * self._columns, (first + band_rows) * self._columns)
        merge = self._config.vision.merge_unit
        patches = slice(tokens.start * merge, tokens.stop * merge)
        unit = self._config.image.grid_unit
        pixels = self._pool.pixels[pages, first * unit : (first + band_rows) * unit]
        return Bands(
            patches=torch.cat([self._patches(page) for page in pixels]),
            layout=self._layout(patches, count),
            **_labels(self._pool.labels, pages, patches, tokens),
        )

    def _patches(self, pixels: np.ndarray) -> torch.Tensor:
        colour = torch.from_numpy(pixels)[:, :, None].expand(-1, -1, self._config.vision.in_channels)
        return to_patches(colour.contiguous(), self._config.image, torch.float32)

    def _layout(self, patches: slice, count: int) -> PatchLayout:
        """Patches of a band keep their places on the page."""
        whole = self._page_layout
        length = patches.stop - patches.start
        return PatchLayout(
            positions=whole.positions[:, patches].repeat(1, count),
            neighbours=whole.neighbours[:, patches].repeat(1, count),
            weights=whole.weights[:, patches].repeat(1, count),
            cu_seqlens=torch.arange(count + 1, dtype=torch.int32) * length,
            max_seqlen=length,
        )


def _labels(labels: ReadingLabels, pages: np.ndarray, patches: slice, tokens: slice) -> dict[str, torch.Tensor]:
    def of(values: np.ndarray, cells: slice) -> torch.Tensor:
        return torch.from_numpy(values[pages, cells]).flatten(0, 1)

    return {
        "words": of(labels.words, patches).long(),
        "spelling": of(labels.spelling, patches).long(),
        "letters": of(labels.letters, patches).float(),
        "token_words": of(labels.token_words, tokens).long(),
        "token_shares": of(labels.token_shares, tokens).float(),
    }
