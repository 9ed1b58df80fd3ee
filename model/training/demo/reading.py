"""The first stage of the demo training: the vision tower learns to read.

The loss is the sum of five tasks, from easy to hard:

    letters      the set of letters in a patch, from a block in the middle of the tower
    spelling     the letters, in order, of the word in a patch; also rewards a partly read word
    word         the word in a patch
    token words  the words in a visual token
    each word    for each known word, whether it is in a visual token, with one threshold for all words and tokens

The last three tasks compare features with the embeddings of the words by cosine, and train both. So a visual token gets the
direction of the text tokens of its words, which the compressor and the decoder rely on. Without the last task the cosine of
a token with its own word was small (a median of 0.13 on pages), and less distinct from chance.

Training uses horizontal bands of pages: they cost far less than whole pages, and reading a word needs only its surroundings.
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

_ANSWERED_PATCHES = 900  # with a word; scoring all patches of a batch would cost more than the tower itself
_ANSWERED_BLANKS = 200
_ANSWERED_TOKENS = 500
_ANSWERED_BLANK_TOKENS = 150
_SHARPEST = 60.0
_STEEPNESS, _THRESHOLD = 20.0, 0.3  # slope and threshold of the logit as a function of the cosine


@dataclass(frozen=True, slots=True, kw_only=True)
class Bands:
    """Horizontal bands at one height of several pages, with labels. P patches and V visual tokens in all bands together."""

    patches: torch.Tensor  # float32 (P, 1536): normalised pixels
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
    """The loss of one step, and the accuracy in each task."""

    loss: torch.Tensor
    first_letters: float  # share of patches with the right first letter of the word
    words: float  # share of patches with the right word
    token_words: float  # share of tokens whose nearest word is one of their own
    detected: float  # share of the words in tokens whose cosine is above the threshold
    false_alarms: float  # mean number of words, for each token, above the threshold but not in the token


class Reader(nn.Module):
    """The vision tower with a head for each task."""

    def __init__(self, network: Network, config: ModelConfig) -> None:
        super().__init__()
        width, text_width = config.vision.hidden_size, config.text.hidden_size
        self.visual = network.model.visual
        self.embeddings = network.model.language_model.embed_tokens
        self.others = nn.Embedding(2, text_width)  # stand-ins for a word: no word, and an unknown word
        self.letters = nn.Linear(width, 26)
        self.norm = nn.LayerNorm(width)
        self.spelling = nn.Linear(width, SPELLED_LETTERS * SPELLING_CLASSES)
        self.word = nn.Linear(width, text_width)
        self.sharpness = nn.Parameter(torch.tensor(math.log(10.0)))
        self._kernel: AttentionKernel = make_kernel("sdpa")

    def forward(self, bands: Bands) -> ReadingReport:
        """Run all tasks on random samples of the patches and visual tokens of `bands`."""
        states: list[torch.Tensor] = []
        tokens = self.visual(bands.patches, bands.layout, self._kernel, noting(states)).main  # (V, D)
        asked = _some_patches(bands.words)
        late = self.norm(states[-1][asked])  # (patches, width)
        directions = self._directions()
        letters = F.binary_cross_entropy_with_logits(
            self.letters(states[EARLY_BLOCK][asked]).float(), bands.letters[asked], reduction="none"
        )
        spelling, first_letters = self._spelling_loss(late, bands, asked)
        word, right_words = self._word_loss(late, bands.words[asked], directions)
        token, right_tokens = self._token_words_loss(tokens, bands, directions[: len(words())])
        each, detected, false_alarms = self._each_word_loss(tokens, bands)
        loss = letters.sum(-1).mean() + 0.5 * spelling + word + token + each
        return ReadingReport(
            loss=loss,
            first_letters=first_letters,
            words=right_words,
            token_words=right_tokens,
            detected=detected,
            false_alarms=false_alarms,
        )

    def _directions(self) -> torch.Tensor:
        """Scaled unit vectors (words + 2, D): all words, then no word, then an unknown word."""
        table = torch.cat([self.embeddings.weight[: len(words())], self.others.weight])
        return F.normalize(table, dim=-1) * self.sharpness.exp().clamp(max=_SHARPEST)

    def _spelling_loss(self, late: torch.Tensor, bands: Bands, asked: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The loss over the patches `asked` that have a word, and the share of right first letters."""
        has_word = bands.words[asked] != NO_WORD
        logits = self.spelling(late[has_word]).view(-1, SPELLED_LETTERS, SPELLING_CLASSES).float()
        truth = bands.spelling[asked][has_word]
        loss = F.cross_entropy(logits.flatten(0, 1), truth.flatten()) * SPELLED_LETTERS
        return loss, _share(logits[:, 0].argmax(-1) == truth[:, 0])

    def _word_loss(
        self, late: torch.Tensor, truth: torch.Tensor, directions: torch.Tensor
    ) -> tuple[torch.Tensor, float]:
        """The loss over patches with and without a word, and the share of right words among known ones."""
        count = len(words())
        truth = torch.where(truth == NO_WORD, count, torch.where(truth == STRANGE_WORD, count + 1, truth))
        logits = (F.normalize(self.word(late).float(), dim=-1) @ directions.T).float()  # (patches, words + 2)
        is_known = truth < count
        return F.cross_entropy(logits, truth), _share(logits.argmax(-1)[is_known] == truth[is_known])

    def _token_words_loss(
        self, tokens: torch.Tensor, bands: Bands, directions: torch.Tensor
    ) -> tuple[torch.Tensor, float]:
        """Cross-entropy with the share of each word in the printed area of a token, and the share of right nearest words."""
        asked = _choose(bands.token_words[:, 0] != NO_WORD, _ANSWERED_TOKENS)
        truth, shares = bands.token_words[asked], bands.token_shares[asked]
        logits = (F.normalize(tokens[asked].float(), dim=-1) @ directions.T).float()  # (tokens, words)
        chances = logits.log_softmax(-1).gather(1, truth.clamp(min=0))
        is_right = (logits.argmax(-1)[:, None] == truth).any(-1)
        return -(chances * shares).sum(-1).mean(), _share(is_right)

    def _each_word_loss(self, tokens: torch.Tensor, bands: Bands) -> tuple[torch.Tensor, float, float]:
        """Binary cross-entropy summed over all words, then the rates of detection and of false alarms (see `ReadingReport`).

        Source: SigLIP (arXiv 2303.15343), with a fixed scale and bias.
        """
        has_word = bands.token_words[:, 0] != NO_WORD
        asked = torch.cat([_choose(has_word, _ANSWERED_TOKENS), _choose(~has_word, _ANSWERED_BLANK_TOKENS)])
        shares = self._shares(bands.token_words[asked], bands.token_shares[asked])
        cosines = (
            F.normalize(tokens[asked].float(), dim=-1) @ F.normalize(self.embeddings.weight[: len(words())], dim=-1).T
        )
        logits = _STEEPNESS * (cosines.float() - _THRESHOLD)  # (tokens, words)
        is_there, is_clear = shares >= CLEAR_SHARE, (shares >= CLEAR_SHARE) | (shares == 0)
        losses = F.binary_cross_entropy_with_logits(logits, is_there.float(), reduction="none")
        false_alarms = ((logits > 0) & (shares == 0)).sum(-1).float().mean().item()
        return (losses * is_clear).sum(-1).mean(), _share(logits[is_there] > 0), false_alarms

    def _shares(self, token_words: torch.Tensor, token_shares: torch.Tensor) -> torch.Tensor:
        """The share of each known word in the printed area of each token, float32 (tokens, words)."""
        shares = token_shares.new_zeros(len(token_words), len(words()))
        is_known = token_words >= 0
        return shares.scatter_add_(1, token_words.clamp(min=0), token_shares * is_known)


def noting(states: list[torch.Tensor]) -> RunLayer:
    """A function that runs a layer and appends its output to `states`."""

    def run(
        layer: nn.Module, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: PackedAttention
    ) -> torch.Tensor:
        states.append(run_layer(layer, hidden, cos, sin, attend))
        return states[-1]

    return run


def _some_patches(truth: torch.Tensor) -> torch.Tensor:
    return torch.cat([_choose(truth != NO_WORD, _ANSWERED_PATCHES), _choose(truth == NO_WORD, _ANSWERED_BLANKS)])


def _choose(is_candidate: torch.Tensor, most: int) -> torch.Tensor:
    """The indices of at most `most` random candidates."""
    candidates = is_candidate.nonzero().flatten()
    return candidates[torch.randperm(len(candidates), device=candidates.device)[:most]]


def _share(is_right: torch.Tensor) -> float:
    return is_right.float().mean().item() if len(is_right) else math.nan


class BandSampler:
    """Samples horizontal bands from random pages of a pool."""

    def __init__(self, pool: PagePool, config: ModelConfig) -> None:
        self._pool = pool
        self._config = config
        self._rows = pool.pixels.shape[1] // config.image.grid_unit
        self._columns = pool.pixels.shape[2] // config.image.grid_unit
        page = PreparedPage(pixels=pool.pixels[0], rows=self._rows, columns=self._columns, content_hash=b"")
        self._page_layout = lay_out_patches([page], config.vision)

    def sample(self, token_count: int, band_rows: int, chance: np.random.Generator) -> Bands:
        """Bands at one random height, with `band_rows` rows of visual tokens (at most a page), about `token_count` in all."""
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
        """The layout of the bands, whose patches keep their positions on the page."""
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
