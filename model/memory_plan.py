"""Device memory by arithmetic, before anything is loaded: weights, one batch, and what is left for page features.

The bytes follow from the checkpoint's sizes alone, so that a plan can be made for a card that is not there. They are those of
layers that run as written; compiled layers need less. Two batches may be queued on a card, but they run one after the other in
one stream, and torch gives the second the memory of the first: one batch counts. `tests/model/test_memory_plan.py` compares the
sums with every allocation of a forward pass.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from model.config import ModelConfig, RerankerConfig
from model.errors import ConfigurationError

GIBIBYTE = 2**30

CONTEXT_BYTES = GIBIBYTE // 2
"""Of the CUDA context and the kernels that are loaded with it. Allowed for, not measured; a card that is there tells itself."""

RESERVE_BYTES = GIBIBYTE
"""For workspaces of cuBLAS and cuDNN, kernels loaded later, and gaps between the allocator's blocks. Not measured either."""

_DECODER_LAYERS = "model.language_model.layers."
_HEAD = "lm_head."
_LETTERS = 20
_FLOAT32 = 4

LEAST_CACHE_BYTES = 4 * GIBIBYTE
"""Page features for which `auto` quantises the decoder: about eight windows of A4 pages in bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """The most that one batch may hold."""

    tokens: int  # language tokens after pruning
    patches: int  # vision patches


DEFAULT_BATCH_LIMITS = BatchLimits(tokens=40_960, patches=131_072)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Where the bytes of a card go. The plan fits when they add up to no more than there are."""

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
        """How the decoder's weights are held, for reading: `int8`, or the dtype where they are not quantised."""
        return self.quantise if self.quantise != "none" else str(self.dtype).removeprefix("torch.")

    def describe(self) -> str:
        """One sentence with the figures."""
        return (
            f"{self.scheme}: {_gib(self.weight_bytes)} GiB of weights, {_gib(self.batch_bytes)} GiB for a batch of "
            f"{self.batch.tokens} tokens and {self.batch.patches} patches, {_gib(self.cache_bytes)} GiB of page features, "
            f"{_gib(self.taken_bytes)} GiB taken or held in reserve; {_gib(self.total_bytes)} GiB in all"
        )


def _gib(byte_count: int) -> str:
    return f"{byte_count / GIBIBYTE:.1f}"


def weight_bytes(shapes: Mapping[str, tuple[int, ...]], config: ModelConfig, dtype: torch.dtype, quantise: str) -> int:
    """Bytes of a network with parameters of these shapes on the device: of the head only the letters' rows, in two dtypes."""
    total = _LETTERS * config.text.hidden_size * (dtype.itemsize + _FLOAT32)
    for name, shape in shapes.items():
        if name.startswith(_HEAD):
            continue
        is_rounded = quantise != "none" and name.startswith(_DECODER_LAYERS) and len(shape) == 2
        total += math.prod(shape) * (1 if is_rounded else dtype.itemsize)
        total += shape[0] * _FLOAT32 if is_rounded else 0  # a scale for each row
    return total


def batch_bytes(config: ModelConfig, dtype: torch.dtype, quantise: str, batch: BatchLimits) -> int:
    """The most that a forward pass of such a batch holds at once, beside weights and page features."""
    return max(
        _vision_bytes(config, dtype) * batch.patches,
        _compressor_bytes(config, dtype, batch),
        _decoder_bytes(config, dtype, quantise) * batch.tokens + _widest_weight_bytes(config, dtype, quantise),
    )


def _vision_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """By patch, in the last block of the vision tower: while keys are turned, or in the MLP."""
    vision, size = config.vision, dtype.itemsize
    patch = vision.patch_values * size + vision.patch_values // vision.temporal_patch_size  # and its pixels, uint8
    tables = 2 * vision.head_dim * size + 10 * 4  # cosines and sines; positions, neighbours and their weights
    levels = len(vision.deepstack_visual_indexes) * vision.hidden_size * size
    # The states that come in, normalised ones, queries, keys and values, turned queries, and three for turning the keys.
    attention = 9 * vision.hidden_size * size
    # The states that come in, with attention added, normalised, and the output; the activations between.
    mlp = 4 * vision.hidden_size * size + vision.intermediate_size * size
    return patch + tables + levels + max(attention, mlp)


def _compressor_bytes(config: ModelConfig, dtype: torch.dtype, batch: BatchLimits) -> int:
    """All features of all pages and of those tokens that are kept; in float32 the main ones of a window, twice."""
    tokens = batch.patches // config.vision.merge_unit
    kept = min(tokens, batch.tokens)
    levels = 1 + len(config.vision.deepstack_visual_indexes)
    window = min(tokens, _LETTERS * 1024)
    width = config.text.hidden_size
    return (tokens + kept) * levels * width * dtype.itemsize + 2 * window * width * _FLOAT32


def _decoder_bytes(config: ModelConfig, dtype: torch.dtype, quantise: str) -> int:
    """By packed token, in a layer of the decoder: while queries are turned, or in the MLP."""
    text, size = config.text, dtype.itemsize
    levels = len(config.vision.deepstack_visual_indexes)
    # Embeddings and DeepStack; angles; positions.
    held = (1 + levels) * text.hidden_size * size + 2 * text.head_dim * size + 3 * 8
    queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    attention = (2 * text.hidden_size + 2 * keys + 4 * queries) * size
    states = 3 * text.hidden_size * size  # that come in, with attention added, normalised
    mlp = states + 2 * text.intermediate_size * size
    if quantise == "fp8":  # the gated activations, and in float32 and 8 bits while they are rounded
        mlp = states + text.intermediate_size * (size + _FLOAT32 + 1)
    return held + max(attention, mlp)


def _widest_weight_bytes(config: ModelConfig, dtype: torch.dtype, quantise: str) -> int:
    """The one weight that int8 turns back into the activations' dtype at a time."""
    return config.text.hidden_size * config.text.intermediate_size * dtype.itemsize if quantise == "int8" else 0


def plan_memory(
    config: RerankerConfig,
    model_config: ModelConfig,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    dtype: torch.dtype,
    quantise: str,
    total_bytes: int,
    taken_bytes: int,
    longest: BatchLimits,
) -> MemoryPlan:
    """The plan for one scheme: batches of the configured or default size, smaller where only a longest window has room.

    Page features get the configured bytes, or all that is left. longest: the largest window that a request may ask for.
    """
    weights = weight_bytes(shapes, model_config, dtype, quantise)
    plans = []
    for batch in (configured_limits(config, DEFAULT_BATCH_LIMITS), configured_limits(config, longest)):
        activations = batch_bytes(model_config, dtype, quantise, batch)
        left = max(0, total_bytes - taken_bytes - weights - activations)
        cache = left if config.feature_cache_gpu_bytes is None else config.feature_cache_gpu_bytes
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
    """As configured, else the default."""
    return BatchLimits(
        tokens=config.max_batch_tokens or default.tokens, patches=config.max_batch_patches or default.patches
    )


def choose_plan(plans: Sequence[MemoryPlan], *, least_cache_bytes: int) -> tuple[MemoryPlan, str]:
    """Of plans by ascending rounding the first that leaves enough for page features, else the last that fits; with the reason.

    Raises: ConfigurationError where none fits, with the figures.
    """
    fitting = [plan for plan in plans if plan.fits]
    if not fitting:
        raise ConfigurationError(f"The card is too small for these settings. {_too_small(plans)}")
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
    """Raises ConfigurationError for a plan that was asked for and does not fit, naming the first of `others` that would."""
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
        + (remedy or "Lower max_batch_tokens, max_batch_patches or max_query_characters, or take a larger card.")
    )


def _too_small(plans: Sequence[MemoryPlan]) -> str:
    told = "; ".join(f"{plan.describe()}, {_gib(plan.needed_bytes)} GiB needed" for plan in plans)
    return f"{told}. Lower max_query_characters or feature_cache_gpu_bytes where they are set, or take a larger card."
