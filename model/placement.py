"""Decides how a checkpoint runs on this device: attention kernels, quantisation, and the sizes of batches and caches.

Every `auto` of these settings is resolved here, once, before the weights are read.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from model.attention import (
    AttentionKernel,
    AttentionWorkload,
    choose_attention,
    make_page_plans,
    make_text_plans,
)
from model.compressor import kept_count
from model.config import MAX_WINDOW_SIZE, ModelConfig, RerankerConfig
from model.device import Compute, DeviceBytes, device_bytes, free_bytes
from model.errors import ConfigurationError
from model.feature_cache import FeatureCache, FeatureShape
from model.image_processor import smart_resize
from model.memory_plan import (
    CONTEXT_BYTES,
    DEFAULT_BATCH_LIMITS,
    LEAST_CACHE_BYTES,
    RESERVE_BYTES,
    BatchLimits,
    MemoryPlan,
    check_plan,
    choose_plan,
    configured_limits,
    plan_memory,
)
from model.pages.image import LONGEST_PAGE_EDGE
from model.prompt import PromptBuilder
from model.quantisation import SCHEMES, quantise_obstacle

MOST_PARAMETERS_BESIDE_A_CARD = 1_000_000_000
"""Largest checkpoint that `auto` runs on the CPU of a machine with a card that CUDA cannot use."""

A4_TOKENS = 736
"""Visual tokens of an A4 page with a longest edge of 1024 pixels."""

MOST_PROMPT_TOKENS = 512
"""Upper bound for the prompt of 20 pages without its query. The conformance tokenizer, with only 1,214 words, needs 460."""

_USUAL_RATIOS = (2**0.5, 11 / 8.5, 14 / 8.5, 16 / 9, 16 / 10, 4 / 3, 3 / 2, 1)
"""Aspect ratios of pages: A4, Letter, Legal, screens, square."""

_HOST_TIER_BYTES = 8 * 2**30
_CPU_CACHE_BYTES = 2**30


def refuse_silent_cpu(compute: Compute, parameters: int) -> None:
    """Raises: ConfigurationError if `auto` would run a large model on the CPU because CUDA cannot use the machine's card."""
    if compute.unused_card is not None and parameters > MOST_PARAMETERS_BESIDE_A_CARD:
        raise ConfigurationError(
            f"device is auto, and {compute.unused_card}. On the CPU a checkpoint of {parameters / 1e9:.1f} billion "
            "parameters takes minutes per request. Repair the driver or the installation, or choose --device cpu."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The decisions about memory, with the reasons."""

    batch: BatchLimits
    quantise: str  # none, fp8 or int8
    quantise_reason: str
    memory: MemoryPlan | None  # None on a CPU, whose memory is not planned


def max_window_cost(prompts: PromptBuilder, model_config: ModelConfig, query_characters: int) -> BatchLimits:
    """Language tokens and vision patches of the largest possible window for a query of that many characters."""
    return _window_limits(model_config, prompts.max_prompt_tokens(MAX_WINDOW_SIZE, query_characters))


def max_window_cost_without_tokenizer(model_config: ModelConfig, query_characters: int) -> BatchLimits:
    """`max_window_cost` for a checkpoint without its tokenizer: slightly larger."""
    return _window_limits(model_config, MOST_PROMPT_TOKENS + 4 * query_characters)


def _window_limits(model_config: ModelConfig, prompt_tokens: int) -> BatchLimits:
    tokens_per_page = (LONGEST_PAGE_EDGE // model_config.image.grid_unit) ** 2
    visual_tokens = MAX_WINDOW_SIZE * tokens_per_page
    return BatchLimits(tokens=visual_tokens + prompt_tokens, patches=visual_tokens * model_config.vision.merge_unit)


def place(
    config: RerankerConfig,
    model_config: ModelConfig,
    shapes: Mapping[str, tuple[int, ...]],
    compute: Compute,
    largest_window: BatchLimits,
) -> Placement:
    """Decide quantisation and memory for a network with parameters of these shapes.

    Raises: ConfigurationError for a quantisation that the device cannot run, and for a card that is too small.
    """
    if config.quantise != "auto" and (obstacle := quantise_obstacle(config.quantise, compute)):
        raise ConfigurationError(f"quantise is {config.quantise!r}, but {obstacle}")
    memory = device_bytes(compute.device)
    if memory is None:
        scheme = "none" if config.quantise == "auto" else config.quantise
        reason = "auto: a CPU's memory has room" if config.quantise == "auto" else "as asked"
        limits = configured_limits(config, DEFAULT_BATCH_LIMITS)
        return Placement(batch=limits, quantise=scheme, quantise_reason=reason, memory=None)
    plans = {
        scheme: _plan_scheme(config, model_config, shapes, compute.dtype, scheme, memory, largest_window)
        for scheme in SCHEMES
        if quantise_obstacle(scheme, compute) is None
    }
    if config.quantise == "auto":
        plan, reason = choose_plan(list(plans.values()), least_cache_bytes=least_cache_bytes(config))
    else:
        plan, reason = plans[config.quantise], "as asked"
        check_plan(plan, list(plans.values()))
    return Placement(batch=plan.batch, quantise=plan.quantise, quantise_reason=reason, memory=plan)


def least_cache_bytes(config: RerankerConfig) -> int:
    """Bytes of page features that `auto` secures by quantising the decoder; 0 if their size is configured."""
    return LEAST_CACHE_BYTES if config.feature_cache_gpu_bytes is None else 0


def _plan_scheme(
    config: RerankerConfig,
    model_config: ModelConfig,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    scheme: str,
    memory: DeviceBytes,
    largest_window: BatchLimits,
) -> MemoryPlan:
    return plan_memory(
        config,
        model_config,
        shapes,
        dtype=dtype,
        quantise=scheme,
        total_bytes=memory.total,
        taken_bytes=memory.taken + RESERVE_BYTES,
        largest_window=largest_window,
    )


def plan_absent_card(
    config: RerankerConfig,
    model_config: ModelConfig,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    dtype: torch.dtype,
    quantise: str,
    card_bytes: int,
    largest_window: BatchLimits,
) -> MemoryPlan:
    """The plan for a card of that size that is not installed, without other processes on it."""
    memory = DeviceBytes(total=card_bytes, taken=CONTEXT_BYTES)
    return _plan_scheme(config, model_config, shapes, dtype, quantise, memory, largest_window)


def choose_kernels(
    config: RerankerConfig, model_config: ModelConfig, compute: Compute
) -> tuple[AttentionKernel, AttentionKernel]:
    """The kernels of the vision tower and of the decoder, for the workload of a window of A4 pages."""
    vision, text = _vision_workload(model_config), _text_workload(config, model_config)
    return (
        choose_attention(config.vision_attention or config.attention, vision, compute),
        choose_attention(config.attention, text, compute),
    )


def make_attention_plans(
    config: RerankerConfig,
    model_config: ModelConfig,
    compute: Compute,
    kernels: tuple[AttentionKernel, AttentionKernel],
    max_tokens: int,
) -> None:
    """Make cuDNN's plans in this thread: for pages of the usual sizes, and for prompts of every length.

    kernels: the vision tower's and the decoder's. max_tokens: length of the longest packed sequence.
    """
    vision, text = kernels
    make_page_plans(vision, _vision_workload(model_config), compute, usual_page_lengths(model_config))
    make_text_plans(text, _text_workload(config, model_config), compute, max_tokens)


def _vision_workload(model_config: ModelConfig) -> AttentionWorkload:
    vision = model_config.vision
    return AttentionWorkload(
        heads=vision.num_heads,
        key_value_heads=vision.num_heads,
        head_dim=vision.head_dim,
        lengths=(A4_TOKENS * vision.merge_unit,) * MAX_WINDOW_SIZE,
        causal=False,
        is_fused=True,
    )


def usual_page_lengths(model_config: ModelConfig) -> list[int]:
    """Patch counts, ascending, of pages in the usual formats at the maximum page size. Portrait and landscape are equal."""
    tokens = set()
    for ratio in _USUAL_RATIOS:
        height, width = smart_resize(LONGEST_PAGE_EDGE, round(LONGEST_PAGE_EDGE / ratio), model_config.image)
        tokens.add(height * width // model_config.image.grid_unit**2)
    return [count * model_config.vision.merge_unit for count in sorted(tokens)]


def _text_workload(config: RerankerConfig, model_config: ModelConfig) -> AttentionWorkload:
    text = model_config.text
    return AttentionWorkload(
        heads=text.num_attention_heads,
        key_value_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        lengths=(kept_count(A4_TOKENS, config.keep_ratio) * MAX_WINDOW_SIZE,),
        causal=True,
    )


def feature_shape(model_config: ModelConfig, dtype: torch.dtype) -> FeatureShape:
    """The shape of cached features."""
    return FeatureShape(
        levels=1 + len(model_config.vision.deepstack_visual_indexes),
        width=model_config.vision.out_hidden_size,
        dtype=dtype,
    )


def make_cache(
    config: RerankerConfig, model_config: ModelConfig, compute: Compute, memory: MemoryPlan | None
) -> FeatureCache:
    """The feature cache with the configured or planned sizes. Call it after the weights are on the device.

    Raises: ConfigurationError if the memory cannot be allocated.
    """
    shape = feature_shape(model_config, compute.dtype)
    on_device, on_host = _CPU_CACHE_BYTES, 0
    free = free_bytes(compute.device)
    if memory is not None and free is not None:  # other processes may have taken memory since the plan
        on_device = min(memory.cache_bytes, max(0, free - memory.batch_bytes - RESERVE_BYTES))
        on_host = _HOST_TIER_BYTES
    return FeatureCache(
        shape,
        device=compute.device,
        device_bytes=on_device if config.feature_cache_gpu_bytes is None else config.feature_cache_gpu_bytes,
        host_bytes=on_host if config.feature_cache_host_bytes is None else config.feature_cache_host_bytes,
    )
