"""Memory plans for cards that are not installed, so that a card can be chosen before it is bought.

For each card size the plans list every quantisation scheme and the one that `auto` would choose. They follow from the sizes of
a checkpoint: no card, weights or tokenizer are needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from model.checkpoint import find_local_checkpoint, read_model_config
from model.config import ModelConfig, RerankerConfig
from model.device import DTYPES
from model.errors import CheckpointError, ConfigurationError
from model.memory_plan import MemoryPlan, choose_plan
from model.placement import (
    A4_TOKENS,
    feature_shape,
    least_cache_bytes,
    max_window_cost_without_tokenizer,
    plan_absent_card,
)
from model.published import PUBLISHED_NAME, PUBLISHED_SIZES
from model.quantisation import SCHEMES
from model.qwen3_vl.weights import build_network, expected_shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSizes:
    """The sizes that plans are computed from, and the checkpoint they belong to."""

    model_config: ModelConfig
    checkpoint: str  # its name
    is_published: bool  # True: the sizes in `published`, because the configured checkpoint is not on this machine


@dataclass(frozen=True, slots=True, kw_only=True)
class AbsentCardPlan:
    """One quantisation scheme on one card size."""

    card_bytes: int
    plan: MemoryPlan
    a4_pages: int  # capacity of the feature cache in A4 pages
    is_auto_with_fp8: bool  # `auto` chooses this scheme on a card with fp8 support
    is_auto_without_fp8: bool  # `auto` chooses this scheme on a card without it


def local_sizes(name: str, *, revision: str | None = None) -> CheckpointSizes:
    """The sizes of the checkpoint called `name` if its JSON files are on this machine, else the published ones."""
    try:
        checkpoint = find_local_checkpoint(name, revision=revision)
        model_config = read_model_config(checkpoint.folder)
    except CheckpointError:
        return CheckpointSizes(model_config=PUBLISHED_SIZES, checkpoint=PUBLISHED_NAME, is_published=True)
    return CheckpointSizes(model_config=model_config, checkpoint=name, is_published=False)


def plan_absent_cards(
    config: RerankerConfig, model_config: ModelConfig, card_bytes: Sequence[int]
) -> list[AbsentCardPlan]:
    """The plans for every card size, each with every scheme. dtype `auto` counts as bfloat16.

    fp8 products are returned in bfloat16, so fp8 is left out for other dtypes.
    Raises: ConfigurationError for an unknown dtype.
    """
    if config.dtype not in ("auto", *DTYPES):
        raise ConfigurationError(f"dtype is {config.dtype!r}; it must be auto, {', '.join(DTYPES)}.")
    dtype = torch.bfloat16 if config.dtype == "auto" else DTYPES[config.dtype]
    shapes = expected_shapes(build_network(model_config))
    schemes = [scheme for scheme in SCHEMES if scheme != "fp8" or dtype == torch.bfloat16]
    largest = max_window_cost_without_tokenizer(model_config, config.max_query_characters)
    page_bytes = A4_TOKENS * feature_shape(model_config, dtype).token_bytes
    rows: list[AbsentCardPlan] = []
    for card in card_bytes:
        plans = [
            plan_absent_card(
                config, model_config, shapes, dtype=dtype, quantise=scheme, card_bytes=card, largest_window=largest
            )
            for scheme in schemes
        ]
        with_fp8 = _auto_choice(plans, config)
        without_fp8 = _auto_choice([plan for plan in plans if plan.quantise != "fp8"], config)
        rows += [
            AbsentCardPlan(
                card_bytes=card,
                plan=plan,
                a4_pages=plan.cache_bytes // page_bytes if plan.fits else 0,
                is_auto_with_fp8=plan is with_fp8,
                is_auto_without_fp8=plan is without_fp8,
            )
            for plan in plans
        ]
    return rows


def _auto_choice(plans: Sequence[MemoryPlan], config: RerankerConfig) -> MemoryPlan | None:
    """The plan that `auto` chooses; None if none fits."""
    try:
        return choose_plan(plans, least_cache_bytes=least_cache_bytes(config))[0]
    except ConfigurationError:
        return None
