"""Finds a checkpoint (a folder, a hub id, or the bundled one) and reads its JSON files and its tokenizer.

Every failure is a CheckpointError that names the file and the key. `qwen3_vl.weights` reads the weights.
"""

import json
import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from model.config import ImageConfig, ModelConfig, TextConfig, VisionConfig
from model.errors import CheckpointError
from model.pages.image import LONGEST_PAGE_EDGE
from model.pages.text_page_format import PUBLISHED_TEXT_PAGE, TextPageFormat
from model.prompt import ChatTokenizer

ARCHITECTURE = "Qwen3VLForConditionalGeneration"
BUNDLED = {"demo": Path(__file__).parent / "demo"}
"""Checkpoints inside the package, by name. They take precedence over a folder: write `./demo` for a folder of that name."""

_TEXT_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim",
)  # fmt: skip
"""Fields of `TextConfig` that are integers in `text_config`, under the same names."""

_SMALLEST_PRINT = 6

_FILES = ["*.json", "*.safetensors", "*.jinja", "merges.txt"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint's folder on this machine, and the name it was found by."""

    name: str
    folder: Path
    revision: str | None  # the hub's commit; None for a folder


def find_checkpoint(name: str, *, revision: str | None = None) -> Checkpoint:
    """Find a bundled name, a folder, or a hub id such as `mtri-admin/ZipRerank` (downloaded into the hub's cache).

    Raises: CheckpointError.
    """
    if name in BUNDLED:
        return Checkpoint(name=name, folder=BUNDLED[name], revision=None)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Checkpoint(name=name, folder=folder, revision=None)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        bundled = " or ".join(map(repr, BUNDLED))
        raise CheckpointError(
            f"{name!r} is neither a folder nor a hub id of the form owner/name, nor {bundled}. "
            "Check the path or the id."
        )
    return _download(name, revision)


def find_local_checkpoint(name: str, *, revision: str | None = None) -> Checkpoint:
    """Like `find_checkpoint`, but never downloads: looks a hub id up in the hub's cache. Raises: CheckpointError."""
    if not is_hub_id(name):
        return find_checkpoint(name, revision=revision)
    folder = _cached_folder(name, revision, None)
    return Checkpoint(name=name, folder=Path(folder), revision=Path(folder).name)


def bytes_to_download(hub_id: str, *, revision: str | None = None) -> int:
    """The bytes that a start of the service would download from the hub. Queries the hub, without downloading.

    Raises: CheckpointError if the hub refuses or cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        files = snapshot_download(hub_id, revision=revision, allow_patterns=_FILES, dry_run=True)
    except Exception as error:
        obstacle = error.__cause__ if isinstance(error.__cause__, Exception) else error
        if isinstance(obstacle, HfHubHTTPError):
            raise _refused(hub_id, revision, obstacle) from error
        raise _not_found(hub_id, revision, obstacle) from error
    return sum(file.file_size or 0 for file in files if file.will_download)


def is_hub_id(name: str) -> bool:
    """Whether the name has the form owner/name and is neither a folder nor a bundled checkpoint."""
    is_local = name in BUNDLED or Path(name).expanduser().is_dir()
    return not is_local and name.count("/") == 1 and not name.startswith((".", "/", "~"))


def _download(hub_id: str, revision: str | None) -> Checkpoint:
    """Download from the hub into its cache. If the hub cannot be reached, use the cached files."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    logger.info("looking for %s in the hub's cache, then on the hub", hub_id)
    try:
        folder = snapshot_download(hub_id, revision=revision, allow_patterns=_FILES)
    except HFValidationError as error:
        raise CheckpointError(f"{hub_id!r} is not a valid hub id; it must have the form owner/name.") from error
    except OSError as error:  # includes huggingface_hub's errors, also those for HTTP status codes
        folder = _cached_folder(hub_id, revision, error)
    return Checkpoint(name=hub_id, folder=Path(folder), revision=Path(folder).name)


def _cached_folder(hub_id: str, revision: str | None, obstacle: Exception | None) -> str:
    """The folder in the hub's cache. obstacle: the failure of the download; None if none was tried. Raises: CheckpointError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return str(snapshot_download(hub_id, revision=revision, allow_patterns=_FILES, local_files_only=True))
    except OSError as error:
        refusal = obstacle.__cause__ if obstacle and isinstance(obstacle.__cause__, HfHubHTTPError) else obstacle
        if isinstance(refusal, HfHubHTTPError):
            raise _refused(hub_id, revision, refusal) from error
        raise _not_found(hub_id, revision, obstacle) from error


def _not_found(hub_id: str, revision: str | None, obstacle: Exception | None) -> CheckpointError:
    tried = f" and could not be downloaded ({type(obstacle).__name__})" if obstacle else ""
    return CheckpointError(
        f"{hub_id!r}{_revision_suffix(revision)} is not in the hub's cache on this machine{tried}. "
        "Name a folder, or download the checkpoint on a machine with access to the hub."
    )


def _refused(hub_id: str, revision: str | None, error: Exception) -> CheckpointError:
    response = getattr(error, "response", None)
    status = f"status {response.status_code}" if response is not None else type(error).__name__
    return CheckpointError(
        f"The hub refused {hub_id!r}{_revision_suffix(revision)}: {status}. Check the id, the revision and your token."
    )


def _revision_suffix(revision: str | None) -> str:
    return f" at revision {revision!r}" if revision else ""


def read_model_config(folder: Path) -> ModelConfig:
    """Read the sizes from config.json and preprocessor_config.json. Raises: CheckpointError."""
    config = _read_json(folder / "config.json")
    _require(config, "config.json", architectures=[ARCHITECTURE], model_type="qwen3_vl")
    vision, text = _section(config, "vision_config"), _section(config, "text_config")
    _require(vision, "config.json: vision_config", hidden_act="gelu_pytorch_tanh")
    _require(text, "config.json: text_config", hidden_act="silu", attention_bias=False)
    model_config = ModelConfig(
        vision=_read_vision_config(vision),
        text=_read_text_config(text),
        image=_read_image_config(_read_json(folder / "preprocessor_config.json")),
        image_token_id=_integer(config, "image_token_id", "config.json"),
        vision_start_token_id=_integer(config, "vision_start_token_id", "config.json"),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
    )
    _check_sizes(model_config)
    return model_config


def _read_vision_config(section: dict[str, Any]) -> VisionConfig:
    place = "config.json: vision_config"
    names = [field.name for field in fields(VisionConfig) if field.name != "deepstack_visual_indexes"]
    indexes = section.get("deepstack_visual_indexes")
    if not isinstance(indexes, list) or not all(isinstance(index, int) for index in indexes):
        raise CheckpointError(f"{place}: deepstack_visual_indexes is {indexes!r}; it must be a list of integers.")
    sizes = {name: _integer(section, name, place) for name in names}
    return VisionConfig(**sizes, deepstack_visual_indexes=tuple(indexes))


def _read_text_config(section: dict[str, Any]) -> TextConfig:
    place = "config.json: text_config"
    # Newer configurations have rope_theta inside `rope_parameters`, older ones beside `rope_scaling`.
    rope = section.get("rope_parameters") or section.get("rope_scaling") or {}
    sections = rope.get("mrope_section")
    if not isinstance(sections, list) or len(sections) != 3:
        raise CheckpointError(f"{place}: mrope_section is {sections!r}; it must be three integers.")
    if rope.get("rope_type", "default") != "default" or rope.get("mrope_interleaved", True) is not True:
        raise CheckpointError(f"{place}: rope must be of type 'default' with interleaved M-RoPE, found {rope!r}.")
    sizes = {name: _integer(section, name, place) for name in _TEXT_SIZES}
    return TextConfig(
        **sizes,
        rms_norm_eps=_number(section, "rms_norm_eps", place),
        rope_theta=_number(rope if "rope_theta" in rope else section, "rope_theta", place),
        mrope_section=cast(tuple[int, int, int], tuple(sections)),
    )


def _read_image_config(raw: dict[str, Any]) -> ImageConfig:
    place = "preprocessor_config.json"
    _require(raw, place, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    size = _section(raw, "size", place)
    return ImageConfig(
        patch_size=_integer(raw, "patch_size", place),
        merge_size=_integer(raw, "merge_size", place),
        temporal_patch_size=_integer(raw, "temporal_patch_size", place),
        min_pixels=_integer(size, "shortest_edge", f"{place}: size"),
        max_pixels=_integer(size, "longest_edge", f"{place}: size"),
        text_page=_read_text_page(raw, f"{place}: text_page"),
    )


def _read_text_page(raw: dict[str, Any], place: str) -> TextPageFormat:
    """The service's own section, in checkpoints that read text on other pages than the published one does."""
    if "text_page" not in raw:
        return PUBLISHED_TEXT_PAGE
    section = _section(raw, "text_page", "preprocessor_config.json")
    format = TextPageFormat(**{field.name: _integer(section, field.name, place) for field in fields(TextPageFormat)})
    is_usable = (
        max(format.width, format.height) <= format.longest_edge <= LONGEST_PAGE_EDGE
        and _SMALLEST_PRINT <= format.smallest_print <= format.largest_print <= min(format.width, format.height) // 4
    )
    if not is_usable:
        raise CheckpointError(
            f"{place} is {section}; its edges must be at most longest_edge, which is at most {LONGEST_PAGE_EDGE}, and its "
            f"print from {_SMALLEST_PRINT} to a quarter of the shorter edge."
        )
    return format


def _check_sizes(config: ModelConfig) -> None:
    """Check the relations between sizes that the network's code assumes. Raises: CheckpointError."""
    vision, text, image = config.vision, config.text, config.image
    indexes = vision.deepstack_visual_indexes
    relations = {
        "vision heads divide the hidden size into multiples of 4": vision.hidden_size % (4 * vision.num_heads) == 0,
        "num_position_embeddings is a square": int(vision.num_position_embeddings**0.5) ** 2
        == vision.num_position_embeddings,
        "deepstack_visual_indexes ascend below depth": sorted(set(indexes)) == list(indexes)
        and all(0 <= index < vision.depth for index in indexes),
        "no more DeepStack features than decoder layers": len(indexes) <= text.num_hidden_layers,
        "vision out_hidden_size is the text hidden_size": vision.out_hidden_size == text.hidden_size,
        "key/value heads divide the attention heads": text.num_attention_heads % text.num_key_value_heads == 0,
        "mrope_section adds up to half the head size": sum(text.mrope_section) * 2 == text.head_dim,
        "the image processor's patches are the vision tower's": (
            image.patch_size,
            image.merge_size,
            image.temporal_patch_size,
        )
        == (vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size),
    }
    for relation, holds in relations.items():
        if not holds:
            raise CheckpointError(
                f"The sizes in the checkpoint's configuration are inconsistent; required: {relation}."
            )


def load_tokenizer(folder: Path) -> ChatTokenizer:
    """Load the checkpoint's tokenizer with its chat template. Raises: CheckpointError."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"The tokenizer in {folder} could not be loaded: {error}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(f"The tokenizer in {folder} has no tokenizer.json; a fast tokenizer is required.")
    return cast(ChatTokenizer, tokenizer)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object.")
    return content


def _require(section: dict[str, Any], place: str, **expected: Any) -> None:
    for key, value in expected.items():
        if section.get(key) != value:
            raise CheckpointError(f"{place}: {key} is {section.get(key)!r}; this architecture needs {value!r}.")


def _section(raw: dict[str, Any], key: str, place: str = "config.json") -> dict[str, Any]:
    section = raw.get(key)
    if not isinstance(section, dict):
        raise CheckpointError(f"{place}: {key} is missing.")
    return section


def _integer(section: dict[str, Any], key: str, place: str) -> int:
    value = section.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{place}: {key} is {value!r}; it must be a positive integer.")
    return value


def _number(section: dict[str, Any], key: str, place: str) -> float:
    value = section.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        raise CheckpointError(f"{place}: {key} is {value!r}; it must be a positive number.")
    return float(value)
