"""The options of one ranking: those of the query, and for the others the configured values."""

from dataclasses import dataclass

from model import MAX_WINDOW_SIZE, WindowStrategy
from service.errors import InvalidRequestError
from service.records import RankOptions
from service.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSettings:
    """`RankOptions` with every value chosen."""

    keep_ratio: float
    min_keep_ratio: float  # at most keep_ratio
    window_size: int
    stride: int
    window_strategy: WindowStrategy


def choose_rank_settings(options: RankOptions, settings: Settings) -> RankSettings:
    """Raises: InvalidRequestError where the stride is larger than the window, or the lowest keep ratio than the keep ratio."""
    window_size = options.window_size or settings.window_size
    # A window without a stride keeps the configured proportion (the published one is one half).
    stride = options.stride or max(1, window_size * settings.stride // settings.window_size)
    if stride > window_size:
        message = (
            f"stride is {stride} and window_size {window_size}; "
            f"1 <= stride <= window_size <= {MAX_WINDOW_SIZE} must hold."
        )
        raise InvalidRequestError("invalid_request", message, field="options")
    keep_ratio = options.keep_ratio or settings.keep_ratio
    if options.min_keep_ratio is not None and options.min_keep_ratio > keep_ratio:
        message = (
            f"min_keep_ratio is {options.min_keep_ratio:g} and keep_ratio {keep_ratio:g}; "
            "0 < min_keep_ratio <= keep_ratio <= 1 must hold."
        )
        raise InvalidRequestError("invalid_request", message, field="options")
    return RankSettings(
        keep_ratio=keep_ratio,
        min_keep_ratio=options.min_keep_ratio or min(settings.min_keep_ratio, keep_ratio),
        window_size=window_size,
        stride=stride,
        window_strategy=options.window_strategy or settings.window_strategy,
    )


def check_query_text(text: str, limit: int) -> None:
    """Raises InvalidRequestError for a text that is empty or above the limit, before any page is decoded."""
    if len(text) > limit:
        message = f"{len(text)} characters and the limit is {limit}. Shorten it; nothing is cut silently."
        raise InvalidRequestError("invalid_request", message, field="query")
    if not text.strip():
        message = "it is empty. Say what the pages should be ranked by."
        raise InvalidRequestError("invalid_request", message, field="query")
