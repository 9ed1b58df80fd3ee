"""Plans device memory before loading: weights, one batch, and the remainder for page features.

All byte counts follow from the checkpoint's sizes, so a plan can be made for a card that is not installed. They hold for
uncompiled layers; compiled layers need less. Two batches may be queued on a card, but they run one after the other in one
stream, where torch reuses the first one's memory for the second, so the plan counts one batch.
`tests/model/test_memory_plan.py` compares the sums with every allocation of a forward pass.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from model.config import ModelConfig, RerankerConfig
from model.errors import ConfigurationError

GIBIBYTE = 2**30

CONTEXT_BYTES = GIBIBYTE // 2
"""Allowance for the CUDA context and its kernels on an absent card; on an installed card the real bytes are measured."""

RESERVE_BYTES = GIBIBYTE
"""Allowance for workspaces of cuBLAS and cuDNN, kernels loaded later, and gaps between the allocator's blocks."""

_DECODER_LAYERS = "model.language_model.layers."
_HEAD = "lm_head."
_LETTERS = 20
_FLOAT32 = 4

LEAST_CACHE_BYTES = 4 * GIBIBYTE
"""Minimum for page features; to reach it, `auto` quantises the decoder. About eight windows of A4 pages in bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """Upper limits of one batch."""

    tokens: int  # language tokens after pruning
    patches: int  # vision patches


DEFAULT_BATCH_LIMITS = BatchLimits(tokens=40_960, patches=131_072)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """The use of a card's memory."""

    total_bytes: int
    taken_bytes: int  # by the context, other processes, and the reserve
    weight_bytes: int
    batch_bytes: int
    cache_bytes: int  # page features on the device
    batch: BatchLimits
    quantise: str
    dtype: torch.dtype

    @property
    def needed_bytes(self) -> int:
        return self.taken_bytes + self.weight_bytes + self.batch_bytes + self.cache_bytes

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= self.total_bytes

    @property
    def scheme(self) -> str:
        """Format of the decoder's weights for messages: fp8 or int8, else the dtype."""
        return self.quantise if self.quantise != "none" else str(self.dtype).removeprefix("torch.")

    def describe(self) -> str:
        """The figures in one sentence."""
        return (
            f"{self.scheme}: {_gib(self.weight_bytes)} GiB of weights, {_gib(self.batch_bytes)} GiB for a batch of "
            f"{self.batch.tokens} tokens and {self.batch.patches} patches, {_gib(self.cache_bytes)} GiB of page features, "
            f"{_gib(self.taken_bytes)} GiB taken or reserved; {_gib(self.total_bytes)} GiB in all"
        )


def _gib(byte_count: int) -> str:
    return f"{byte_count / GIBIBYTE:.1f}"


def weight_bytes(shapes: Mapping[str, tuple[int, ...]], config: ModelConfig, dtype: torch.dtype, quantise: str) -> int:
    """Device bytes of a network with parameters of these shapes. Of the head only the letters' rows count, in two dtypes."""
    total = _LETTERS * config.text.hidden_size * (dtype.itemsize + _FLOAT32)
    for name, shape in shapes.items():
        if name.startswith(_HEAD):
            continue
        is_quantised = quantise != "none" and name.startswith(_DECODER_LAYERS) and len(shape) == 2
        total += math.prod(shape) * (1 if is_quantised else dtype.itemsize)
        total += shape[0] * _FLOAT32 if is_quantised else 0  # a scale for each row
    return total


def batch_bytes(config: ModelConfig, dtype: torch.dtype, quantise: str, batch: BatchLimits) -> int:
    """Peak bytes of a forward pass of such a batch, without weights and page features."""
    decoder = _decoder_bytes(config, dtype, quantise) * batch.tokens
    if quantise == "int8":  # the largest weight in the activations' dtype, because one at a time is converted
        decoder += config.text.hidden_size * config.text.intermediate_size * dtype.itemsize
    return max(_vision_bytes(config, dtype) * batch.patches, _compressor_bytes(config, dtype, batch), decoder)


def _vision_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes per patch in the last block of the vision tower: the larger of rotating the keys and running the MLP."""
    vision, size = config.vision, dtype.itemsize
    patch = vision.patch_values * size + vision.patch_values // vision.temporal_patch_size  # with its uint8 pixels
    tables = 2 * vision.head_dim * size + 10 * 4  # cosines and sines; positions, neighbours and their weights
    levels = len(vision.deepstack_visual_indexes) * vision.hidden_size * size
    # Input, normalised input, queries, keys, values, rotated queries, and three temporaries of rotating the keys.
    attention = 9 * vision.hidden_size * size
    # Input, sum with the attention, normalised sum and output; the activations inside the MLP.
    mlp = 4 * vision.hidden_size * size + vision.intermediate_size * size
    return patch + tables + levels + max(attention, mlp)


def _compressor_bytes(config: ModelConfig, dtype: torch.dtype, batch: BatchLimits) -> int:
    """Bytes of all features of all pages and of the kept tokens, and of one window's main features twice in float32."""
    tokens = batch.patches // config.vision.merge_unit
    kept = min(tokens, batch.tokens)
    levels = 1 + len(config.vision.deepstack_visual_indexes)
    window = min(tokens, _LETTERS * 1024)
    width = config.text.hidden_size
    return (tokens + kept) * levels * width * dtype.itemsize + 2 * window * width * _FLOAT32


def _decoder_bytes(config: ModelConfig, dtype: torch.dtype, quantise: str) -> int:
    """Bytes per packed token in a decoder layer: the larger of rotating the queries and running the MLP."""
    text, size = config.text, dtype.itemsize
    levels = len(config.vision.deepstack_visual_indexes)
    # Embeddings and DeepStack; angles; positions.
    held = (1 + levels) * text.hidden_size * size + 2 * text.head_dim * size + 3 * 8
    queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    attention = (2 * text.hidden_size + 2 * keys + 4 * queries) * size
    states = 3 * text.hidden_size * size  # input, sum with the attention, normalised sum
    mlp = states + 2 * text.intermediate_size * size
    if quantise == "fp8":  # the gated activations, and their float32 and 8-bit copies during rounding
        mlp = states + text.intermediate_size * (size + _FLOAT32 + 1)
    return held + max(attention, mlp)


def plan_memory(
    config: RerankerConfig,
    model_config: ModelConfig,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    dtype: torch.dtype,
    quantise: str,
    total_bytes: int,
    taken_bytes: int,
    largest_window: BatchLimits,
) -> MemoryPlan:
    """The plan for one quantisation scheme.

    A batch has the configured or default size; if that does not fit, the size of one largest window. Page features get the
    configured bytes, else the remainder. largest_window: the largest window that a request may have.
    """
    weights = weight_bytes(shapes, model_config, dtype, quantise)
    plans = []
    for batch in (configured_limits(config, DEFAULT_BATCH_LIMITS), configured_limits(config, largest_window)):
        activations = batch_bytes(model_config, dtype, quantise, batch)
        remainder = max(0, total_bytes - taken_bytes - weights - activations)
        cache = remainder if config.feature_cache_gpu_bytes is None else config.feature_cache_gpu_bytes
        plans.append(
            MemoryPlan(
                total_bytes=total_bytes,
                taken_bytes=taken_bytes,
                weight_bytes=weights,
                batch_bytes=activations,
                cache_bytes=cache,
                batch=batch,
                quantise=quantise,
                dtype=dtype,
            )
        )
    return next((plan for plan in plans if plan.fits), plans[-1])


def configured_limits(config: RerankerConfig, default: BatchLimits) -> BatchLimits:
    """The configured limits, with defaults for those left open."""
    return BatchLimits(
        tokens=config.max_batch_tokens or default.tokens, patches=config.max_batch_patches or default.patches
    )


def choose_plan(plans: Sequence[MemoryPlan], *, least_cache_bytes: int) -> tuple[MemoryPlan, str]:
    """The first plan with enough bytes for page features, else the last plan that fits; and the reason.

    plans: in order of increasing rounding error. Raises: ConfigurationError with the figures if no plan fits.
    """
    fitting = [plan for plan in plans if plan.fits]
    if not fitting:
        figures = "; ".join(f"{plan.describe()}, {_gib(plan.needed_bytes)} GiB needed" for plan in plans)
        raise ConfigurationError(
            f"The card is too small for these settings. {figures}. "
            "Lower max_query_characters or feature_cache_gpu_bytes if they are set, or use a larger card."
        )
    chosen = next((plan for plan in fitting if plan.cache_bytes >= least_cache_bytes), fitting[-1])
    if chosen is plans[0]:
        return chosen, f"auto: there is room for {chosen.scheme}"
    refused = "; ".join(
        f"{plan.scheme} would leave {_gib(plan.cache_bytes)} GiB for page features" if plan.fits
        else f"{plan.scheme} would need {_gib(plan.needed_bytes)} GiB"
        for plan in plans[: plans.index(chosen)]
    )  # fmt: skip
    return chosen, f"auto: of {_gib(chosen.total_bytes)} GiB, {refused}"


def check_plan(plan: MemoryPlan, others: Sequence[MemoryPlan]) -> None:
    """Raises: ConfigurationError if the configured plan does not fit; it names the first of `others` that would."""
    if plan.fits:
        return
    remedy = next(
        (f"quantise={other.quantise} would fit ({other.describe()})." for other in others if other.fits), None
    )
    spare = plan.total_bytes - plan.taken_bytes - plan.weight_bytes - plan.batch_bytes
    if spare >= 0:
        remedy = f"feature_cache_gpu_bytes of at most {spare} would fit."
    raise ConfigurationError(
        f"The card is too small for these settings: {plan.describe()}, {_gib(plan.needed_bytes)} GiB needed. "
        + (remedy or "Lower max_batch_tokens, max_batch_patches or max_query_characters, or use a larger card.")
    )
