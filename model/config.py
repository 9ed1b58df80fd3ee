"""Frozen records: the caller's configuration, and the sizes of a checkpoint.

The caller builds the first, `checkpoint` reads the second from JSON files.
"""

from dataclasses import dataclass
from typing import Literal

from model.errors import ConfigurationError, KeepRatioError, WindowError
from model.pages.text_page_format import PUBLISHED_TEXT_PAGE, TextPageFormat

MAX_WINDOW_SIZE = 20
"""Maximum number of pages in one prompt: the published model was trained with the identifiers A to T."""

QUANTISE_CHOICES = ("none", "fp8", "int8", "auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankerConfig:
    """The caller's settings. Each `auto` is resolved once, when the checkpoint is loaded, and the reason is logged.

    Raises: KeepRatioError, WindowError, ConfigurationError.
    """

    device: str = "auto"  # auto, cpu, cuda, cuda:N
    dtype: str = "auto"  # auto (float32 on the CPU, bfloat16 on CUDA), float32, bfloat16, float16
    attention: str = "auto"  # of both towers: auto, flash-attn (3 or 2), flash-attn-3, flash-attn-2, torch-varlen, sdpa
    vision_attention: str | None = None  # same names; overrides `attention` for the vision tower
    keep_ratio: float = 0.5  # share of each page's visual tokens that the language model sees
    window_size: int = MAX_WINDOW_SIZE
    stride: int = 10
    compile: bool | Literal["auto"] = "auto"  # torch.compile: slower start, faster forward; auto: on CUDA
    quantise: str = "auto"  # the decoder's weights: none, fp8 (Ada, Hopper and newer cards), int8 (any device), auto
    max_batch_tokens: int | None = None  # language tokens in one batch; None: 40,960, fewer on a small card
    max_batch_patches: int | None = None  # vision patches in one batch; None: 131,072, fewer on a small card
    max_query_characters: int = 4096  # longest query that must fit in a batch with a full window
    feature_cache_gpu_bytes: int | None = None  # page features on the device; None: sized by free memory; 0: off
    feature_cache_host_bytes: int | None = None  # second tier, in host memory; None: 8 GiB with a card, else 0; 0: off

    def __post_init__(self) -> None:
        check_keep_ratio(self.keep_ratio)
        check_window(self.window_size, self.stride)
        if self.quantise not in QUANTISE_CHOICES:
            raise ConfigurationError(f"quantise is {self.quantise!r}; it must be one of {', '.join(QUANTISE_CHOICES)}.")
        if min(self.feature_cache_gpu_bytes or 0, self.feature_cache_host_bytes or 0) < 0:
            raise ConfigurationError(
                f"feature_cache_gpu_bytes is {self.feature_cache_gpu_bytes} and feature_cache_host_bytes is "
                f"{self.feature_cache_host_bytes}; neither may be negative (0 turns a tier off)."
            )


def check_keep_ratio(keep_ratio: float) -> None:
    """Raises: KeepRatioError unless 0 < keep_ratio <= 1 (which excludes NaN)."""
    if not 0 < keep_ratio <= 1:
        raise KeepRatioError(f"keep_ratio is {keep_ratio}; it must be above 0 and at most 1 (1 keeps every token).")


def check_window(window_size: int, stride: int) -> None:
    """Raises: WindowError unless 1 <= stride <= window_size <= 20."""
    if not 1 <= stride <= window_size <= MAX_WINDOW_SIZE:
        raise WindowError(
            f"window_size is {window_size} and stride is {stride}; "
            f"1 <= stride <= window_size <= {MAX_WINDOW_SIZE} must hold."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """`vision_config` of a checkpoint's config.json, with the same field names."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    in_channels: int
    patch_size: int
    spatial_merge_size: int
    temporal_patch_size: int
    out_hidden_size: int
    num_position_embeddings: int
    deepstack_visual_indexes: tuple[int, ...]

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def patch_values(self) -> int:
        """Values in one flattened patch: channels x time x height x width (1536 in the published model)."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def merge_unit(self) -> int:
        """Patches merged into one visual token."""
        return self.spatial_merge_size**2


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """`text_config` of a checkpoint's config.json, with the same field names."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """Image sizes of a checkpoint's preprocessor_config.json. Both limits are pixel counts."""

    patch_size: int
    merge_size: int
    temporal_patch_size: int
    min_pixels: int
    max_pixels: int
    text_page: TextPageFormat = PUBLISHED_TEXT_PAGE  # on which texts are drawn

    @property
    def grid_unit(self) -> int:
        """Pixels per side of one visual token (32). Page sides are multiples of it."""
        return self.patch_size * self.merge_size


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The architecture of a checkpoint, from its JSON files."""

    vision: VisionConfig
    text: TextConfig
    image: ImageConfig
    image_token_id: int
    vision_start_token_id: int
    tie_word_embeddings: bool
