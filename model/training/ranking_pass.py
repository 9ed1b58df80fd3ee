"""A forward pass with gradients through the pipeline of `Reranker`, with logits for the letters and for the written ranking.

An example becomes a prompt followed by its answer, `A] > [B] > …`, so that one pass yields both. The position of the prompt's
opening bracket gives the letter logits, as in inference; the same position and those after it give the token logits of the
answer. All other steps are the reranker's own: pages, early interaction, packing, layers.
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
    """A prompt with its answer. Without an answer (empty `answer_ids`) it yields letter logits only."""

    request: PreparedRequest  # its last segment includes the answer without the answer's last token
    answer_ids: tuple[int, ...] = ()
    ranking: tuple[int, ...] = ()  # pages, best first
    relevant: frozenset[int] = frozenset()

    @property
    def read_count(self) -> int:
        """Number of positions to read: the opening bracket's, and one for each token of the answer in the prompt."""
        return max(1, len(self.answer_ids))


class PassOutput(NamedTuple):
    """Logits of B prompts with R read positions. A tuple, because wrappers that shard or replicate a module require one."""

    letter_logits: torch.Tensor  # float32 (B, 20)
    token_logits: torch.Tensor  # (R, vocabulary): for the next token at each read position


class PromptWriter:
    """Turns examples into prompts, on the CPU. Thread-safe."""

    def __init__(self, reranker: Reranker, tokenizer: ChatTokenizer, *, keep_ratio: float) -> None:
        """`tokenizer`: the checkpoint's, with its chat template."""
        self._reranker = reranker
        self._tokenizer = tokenizer.backend_tokenizer
        self._keep_ratio = keep_ratio
        self._end_id = _end_of_turn_id(tokenizer)

    def question(self, query: str, pages: Sequence[Image.Image]) -> TrainingPrompt:
        """The prompt alone. Raises: QueryError, PageCountError, PageImageError."""
        return TrainingPrompt(request=self._reranker.prepare(query, pages, self._keep_ratio))

    def example(self, example: RankingExample) -> TrainingPrompt:
        """The prompt followed by the ranking to learn. Raises: DataError for a page that cannot be opened."""
        question = self.question(example.query, open_pages(example))
        answer_ids = self.answer_ids(written_order(example.ranking, example.relevant))
        return TrainingPrompt(
            request=_with_answer_tokens(question.request, answer_ids[:-1]),
            answer_ids=tuple(answer_ids),
            ranking=example.ranking,
            relevant=example.relevant,
        )

    def answer_ids(self, order: Sequence[int]) -> list[int]:
        """Token ids of the answer, such as `A] > [B]<|im_end|>` for the order (0, 1). The opening bracket is in the prompt."""
        ids: list[int] = self._tokenizer.encode(continue_answer(order), add_special_tokens=False).ids
        return [*ids, self._end_id]


def _end_of_turn_id(tokenizer: ChatTokenizer) -> int:
    """Id of the marker that the chat template puts after an answer. Raises: DataError if there is no special token."""
    answer: list[dict[str, object]] = [{"role": "assistant", "content": _ANSWER_SLOT}]
    rendered = tokenizer.apply_chat_template(answer, tokenize=False, add_generation_prompt=False)
    behind = rendered.partition(_ANSWER_SLOT)[2]
    markers = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    for token_id, token in markers.items():
        if token.special and behind.startswith(token.content):
            return token_id
    raise DataError(f"The chat template ends an answer with {behind!r}; it must be a special token.")


def written_order(ranking: Sequence[int], relevant: frozenset[int]) -> tuple[int, ...]:
    """The ranking to learn: the teacher's order with its first relevant page moved to the front."""
    first = next((page for page in ranking if page in relevant), ranking[0])
    return (first, *(page for page in ranking if page != first))


def _with_answer_tokens(request: PreparedRequest, token_ids: Sequence[int]) -> PreparedRequest:
    """The request with tokens appended to its prompt."""
    *segments, last = request.prompt.segments
    longer = np.concatenate([last, np.array(token_ids, dtype=np.int64)])
    return replace(request, prompt=replace(request.prompt, segments=(*segments, longer)))


def run_layer_again(
    layer: nn.Module, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: PackedAttention
) -> torch.Tensor:
    """Run the layer, and again in the backward pass, instead of storing its intermediate activations."""
    out: torch.Tensor = checkpoint(
        run_layer, layer, hidden, cos, sin, attend, use_reentrant=False, preserve_rng_state=False
    )
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenFeatures:
    """Page features without gradients, for a vision tower that is not trained."""

    features: PageFeatures

    @torch.no_grad()
    def encode(self, pages: Sequence[PreparedPage], observe: Observe) -> VisualTokens:
        return self.features.encode(pages, observe)

    @torch.no_grad()
    def finish(self, tokens: VisualTokens, observe: Observe) -> VisualTokens:
        return self.features.finish(tokens, observe)


class RankingPass(nn.Module):
    """A reranker's network as one module with a `forward` that uses all weights, so that accelerate can wrap it.

    The vision tower is frozen unless `vision_is_trained`. Trained parameters have `requires_grad`.
    """

    _no_split_modules = ("DecoderLayer", "VisionBlock")  # accelerate shards a model by these

    def __init__(self, reranker: Reranker, *, vision_is_trained: bool = False, run_layer: RunLayer = run_layer) -> None:
        """Raises: ConfigurationError for a reranker with a feature cache (its features would become stale in training), or with
        quantised weights or missing rows of the head.
        """
        super().__init__()
        if reranker.feature_cache.is_on:
            raise ConfigurationError(
                "A reranker in training must not cache page features. Set both sizes of the feature cache to 0."
            )
        if reranker.quantise != "none" or reranker.network.head_rows is not None:
            raise ConfigurationError(
                f"A reranker in training needs all weights unquantised; this one has quantise {reranker.quantise!r} and "
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
        """Letter and token logits of all prompts, in one packed pass."""
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
        """Letter logits, float32 (B, letters), of hidden states (B, D). Without autocast, as in inference."""
        with torch.autocast(self._device.type, enabled=False):
            return letter_logits(hidden, self.network.lm_head.weight[list(self._reranker.prompts.letter_ids)])


def in_one_dtype(kernel: AttentionKernel) -> AttentionKernel:
    """The kernel with q and k cast to the dtype of v.

    Under autocast, v is bfloat16, but q and k are float32 after their rotation; kernels need one dtype.
    """

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *bounds: Any, **options: Any) -> torch.Tensor:
        return kernel.attend(q.to(v.dtype), k.to(v.dtype), v, *bounds, **options)

    return replace(kernel, attend=attend)
