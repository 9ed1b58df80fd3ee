"""The sizes of a checkpoint and the choices of a caller, as frozen records.

Knows no files, no tensors and no environment: `checkpoint` fills the first kind, the caller the second.
"""

from dataclasses import dataclass
from typing import Literal

from model.errors import ConfigurationError, KeepRatioError, WindowError

MAX_WINDOW_SIZE = 20
"""Pages in one prompt: the published model was trained with the identifiers A to T."""

QUANTISE_CHOICES = ("none", "fp8", "int8", "auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankerConfig:
    """What a caller may choose. `auto` is resolved once, when the checkpoint is loaded, and the reason is logged.

    Raises: KeepRatioError, WindowError, ConfigurationError.
    """

    device: str = "auto"  # auto, cpu, cuda, cuda:N
    dtype: str = "auto"  # auto (float32 on the CPU, bfloat16 on CUDA), float32, bfloat16, float16
    attention: str = "auto"  # auto, flash-attn (3 or 2), flash-attn-3, flash-attn-2, torch-varlen, sdpa: both towers
    vision_attention: str | None = None  # the same names: overrides the vision tower alone
    keep_ratio: float = 0.5  # share of each page's visual tokens that the language model sees
    window_size: int = MAX_WINDOW_SIZE
    stride: int = 10
    compile: bool | Literal["auto"] = (
        "auto"  # fuse layers by torch.compile: slower start, faster forward; auto: on a card
    )
    quantise: str = "auto"  # the decoder's weights: none, fp8 (Ada, Hopper and newer cards), int8 (any card), auto
    max_batch_tokens: int | None = None  # language tokens in one batch; None: 40,960, fewer on a small card
    max_batch_patches: int | None = None  # vision patches in one batch; None: 131,072, fewer on a small card
    max_query_characters: int = 4096  # of the longest query that a batch has room for beside a full window
    feature_cache_gpu_bytes: int | None = None  # page features on the device; None: by what is free; 0: off
    feature_cache_host_bytes: int | None = None  # behind it in host memory; None: 8 GiB beside a card; 0: off

    def __post_init__(self) -> None:
        check_keep_ratio(self.keep_ratio)
        check_window(self.window_size, self.stride)
        if self.quantise not in QUANTISE_CHOICES:
            raise ConfigurationError(f"quantise is {self.quantise!r}; it must be one of {', '.join(QUANTISE_CHOICES)}.")
        if min(self.feature_cache_gpu_bytes or 0, self.feature_cache_host_bytes or 0) < 0:
            raise ConfigurationError("A size of the feature cache is negative; 0 turns a tier off.")


def check_keep_ratio(keep_ratio: float) -> None:
    """Raises KeepRatioError unless 0 < keep_ratio <= 1 (NaN is refused too)."""
    if not 0 < keep_ratio <= 1:
        raise KeepRatioError(f"keep_ratio is {keep_ratio}; it must be above 0 and at most 1 (1 keeps every token).")


def check_window(window_size: int, stride: int) -> None:
    """Raises WindowError unless 1 <= stride <= window_size <= 20."""
    if not 1 <= stride <= window_size <= MAX_WINDOW_SIZE:
        raise WindowError(
            f"window_size is {window_size} and stride is {stride}; "
            f"1 <= stride <= window_size <= {MAX_WINDOW_SIZE} must hold."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """`vision_config` of a checkpoint's config.json, under the names used there."""

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
        """Numbers in one flattened patch: channels x temporal x height x width (1536 in the published model)."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def merge_unit(self) -> int:
        """Patches that become one visual token."""
        return self.spatial_merge_size**2


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """`text_config` of a checkpoint's config.json, under the names used there."""

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
    """What `preprocessor_config.json` says about the size of a page image. Both limits are counts of pixels."""

    patch_size: int
    merge_size: int
    temporal_patch_size: int
    min_pixels: int
    max_pixels: int

    @property
    def grid_unit(self) -> int:
        """Pixels per side of one visual token (32): page sides are multiples of it."""
        return self.patch_size * self.merge_size


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Everything that a checkpoint's JSON files say about its architecture."""

    vision: VisionConfig
    text: TextConfig
    image: ImageConfig
    image_token_id: int
    vision_start_token_id: int
    tie_word_embeddings: bool
