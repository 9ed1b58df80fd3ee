"""One pass with gradients: the pipeline of `Reranker`, reading the letters and the tokens of the written ranking.

An example becomes a prompt that goes on with its answer, `A] > [B] > …`, so that one pass over it gives both: the position of
the prompt's opening bracket gives the letter logits, as in inference, and it and the positions after it the tokens of the
answer. Everything else is the reranker's own: pages, early interaction, packing, layers. Knows neither losses nor files.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.checkpoint import checkpoint

from model.attention import AttentionKernel, PackedAttention
from model.compilation import LayerRunner, RunLayer, run_layer
from model.dataflow import Observe, PreparedPage, PreparedRequest, VisualTokens, no_observation
from model.device import upload
from model.errors import ConfigurationError
from model.forward_pass import ForwardPass, PageFeatures, letter_logits
from model.prompt import ChatTokenizer
from model.reranker import Reranker
from model.training.answers import continue_answer
from model.training.candidates import open_pages
from model.training.errors import DataError
from model.training.examples import RankingExample

_ANSWER_SLOT = "\N{OBJECT REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPrompt:
    """A prompt with the answer that is to follow it; without one (`answer_ids` empty) it only gives letter logits."""

    request: PreparedRequest  # the last segment goes on with all tokens of the answer but the last, which nobody reads
    answer_ids: tuple[int, ...] = ()
    ranking: tuple[int, ...] = ()  # pages, best first
    relevant: frozenset[int] = frozenset()

    @property
    def read_count(self) -> int:
        """Positions at the prompt's end whose logits are needed: the opening bracket's, and one a further token."""
        return max(1, len(self.answer_ids))


class PassOutput(NamedTuple):
    """B prompts, R positions read. A tuple, because wrappers that shard or replicate a module look into tuples only."""

    letter_logits: torch.Tensor  # float32 (B, 20)
    token_logits: torch.Tensor  # (R, vocabulary): row by row what follows the opening bracket and each answer token


class PromptWriter:
    """Examples to prompts, on the CPU; safe to use from several threads at once."""

    def __init__(self, reranker: Reranker, tokenizer: ChatTokenizer, *, keep_ratio: float) -> None:
        """`tokenizer`: the checkpoint's, with its chat template."""
        self._reranker = reranker
        self._tokenizer = tokenizer.backend_tokenizer
        self._keep_ratio = keep_ratio
        self._end_id = _end_of_turn(tokenizer)

    def question(self, query: str, pages: Sequence[Image.Image]) -> TrainingPrompt:
        """The prompt alone. Raises: QueryError, PageCountError, PageImageError."""
        return TrainingPrompt(request=self._reranker.prepare(query, pages, self._keep_ratio))

    def example(self, example: RankingExample) -> TrainingPrompt:
        """The prompt and the ranking to be learnt. Raises: DataError for a page that cannot be opened."""
        question = self.question(example.query, open_pages(example))
        answer_ids = self.answer_ids(written_order(example.ranking, example.relevant))
        return TrainingPrompt(
            request=_continued(question.request, answer_ids[:-1]),
            answer_ids=tuple(answer_ids),
            ranking=example.ranking,
            relevant=example.relevant,
        )

    def answer_ids(self, order: Sequence[int]) -> list[int]:
        """Ids of `A] > [B]<|im_end|>` for the order (0, 1): the opening bracket is the prompt's."""
        ids: list[int] = self._tokenizer.encode(continue_answer(order), add_special_tokens=False).ids
        return [*ids, self._end_id]


def _end_of_turn(tokenizer: ChatTokenizer) -> int:
    """The marker that the chat template puts behind an assistant's answer."""
    answer: list[dict[str, object]] = [{"role": "assistant", "content": _ANSWER_SLOT}]
    rendered = tokenizer.apply_chat_template(answer, tokenize=False, add_generation_prompt=False)
    behind = rendered.partition(_ANSWER_SLOT)[2]
    markers = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    for token_id, token in markers.items():
        if token.special and behind.startswith(token.content):
            return token_id
    raise DataError(f"The chat template ends an answer with {behind!r}; a special token must stand there.")


def written_order(ranking: Sequence[int], relevant: frozenset[int]) -> tuple[int, ...]:
    """The teacher's order with its first relevant page moved to the front: the ranking that is to be written."""
    first = next((page for page in ranking if page in relevant), ranking[0])
    return (first, *(page for page in ranking if page != first))


def _continued(request: PreparedRequest, token_ids: Sequence[int]) -> PreparedRequest:
    """The request with tokens behind its prompt."""
    *segments, last = request.prompt.segments
    longer = np.concatenate([last, np.array(token_ids, dtype=np.int64)])
    return replace(request, prompt=replace(request.prompt, segments=(*segments, longer)))


def run_layer_again(
    layer: nn.Module, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: PackedAttention
) -> torch.Tensor:
    """Call the layer, and once more in the backward pass, instead of keeping what it computes inside."""
    out: torch.Tensor = checkpoint(
        run_layer, layer, hidden, cos, sin, attend, use_reentrant=False, preserve_rng_state=False
    )
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenFeatures:
    """Page features without gradients: those of a vision tower that is not trained."""

    features: PageFeatures

    @torch.no_grad()
    def encode(self, pages: Sequence[PreparedPage], observe: Observe) -> VisualTokens:
        return self.features.encode(pages, observe)

    @torch.no_grad()
    def finish(self, tokens: VisualTokens, observe: Observe) -> VisualTokens:
        return self.features.finish(tokens, observe)


class RankingPass(nn.Module):
    """The network of a reranker as a module of its own, so that accelerate can wrap it: all weights are used in `forward`.

    The vision tower is frozen unless `vision_is_trained`; parameters that are trained have `requires_grad`.
    """

    _no_split_modules = ("DecoderLayer", "VisionBlock")  # accelerate shards a model by these

    def __init__(self, reranker: Reranker, *, vision_is_trained: bool = False, run_layer: RunLayer = run_layer) -> None:
        """Raises: ConfigurationError for a reranker that remembers features (they would outlive the weights they came from) or
        whose weights are not whole.
        """
        super().__init__()
        if reranker.feature_cache.is_on:
            raise ConfigurationError(
                "A reranker to be trained must remember no features; set both feature caches to 0."
            )
        if reranker.quantise != "none" or reranker.network.head_rows is not None:
            raise ConfigurationError(
                f"A reranker to be trained needs all weights unquantised; this one has quantise {reranker.quantise!r} and "
                f"{reranker.network.lm_head.out_features} rows of the head. Load the network without head_rows and quantise."
            )
        self.network = reranker.network.requires_grad_(True)
        self.network.model.visual.requires_grad_(vision_is_trained)
        self._vision_is_trained = vision_is_trained
        self._reranker = replace(
            reranker,
            vision_attention=in_one_dtype(reranker.vision_attention),
            text_attention=in_one_dtype(reranker.text_attention),
            run_vision_block=LayerRunner("vision blocks", run_layer),
            run_decoder_layer=LayerRunner("decoder layers", run_layer),
        )

    def forward(self, prompts: Sequence[TrainingPrompt]) -> PassOutput:
        """Letter and token logits of all prompts in one packed pass."""
        read_counts = [prompt.read_count for prompt in prompts]
        hidden = self._forward_pass().run([prompt.request for prompt in prompts], no_observation, read_counts)  # (R, D)
        first_positions = upload(torch.tensor([0, *accumulate(read_counts)][:-1]), self._device)  # (B,)
        return PassOutput(
            letter_logits=self._letter_logits(hidden.index_select(0, first_positions)),
            token_logits=self.network.lm_head(hidden),
        )

    @property
    def _device(self) -> torch.device:
        return self._reranker.compute.device

    def _forward_pass(self) -> ForwardPass:
        forward_pass = self._reranker.forward_pass
        if self._vision_is_trained:
            return forward_pass
        return replace(forward_pass, features=FrozenFeatures(features=forward_pass.features))

    def _letter_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """In float32 under autocast too, as in inference."""
        with torch.autocast(self._device.type, enabled=False):
            return letter_logits(hidden, self.network.lm_head.weight[list(self._reranker.prompts.letter_ids)])


def in_one_dtype(kernel: AttentionKernel) -> AttentionKernel:
    """Under autocast the values come in bfloat16 and what was turned by float32 angles in float32; kernels want one dtype."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *bounds: Any, **options: Any) -> torch.Tensor:
        return kernel.attend(q.to(v.dtype), k.to(v.dtype), v, *bounds, **options)

    return replace(kernel, attend=attend)
