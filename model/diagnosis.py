"""Checks whether and how a checkpoint would run on this machine, without loading it.

Each function checks one part and returns a plain record for the operator. It calls the same code as a start of the service, and
raises the same errors.
"""

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from model.attention_kernels import KERNELS, unavailable_reason
from model.cards import card_without_cuda, nvidia_cards
from model.checkpoint import (
    ARCHITECTURE,
    bytes_to_download,
    find_local_checkpoint,
    is_hub_id,
    load_tokenizer,
    read_model_config,
)
from model.compilation import decide_compilation
from model.config import ModelConfig, RerankerConfig
from model.device import Compute, choose_compute
from model.errors import CheckpointError
from model.memory_plan import BatchLimits, MemoryPlan, weight_bytes
from model.pages.fonts import has_font, installed_fonts, is_usable
from model.placement import MOST_PARAMETERS_BESIDE_A_CARD, choose_kernels, max_window_cost, place
from model.prompt import PromptBuilder
from model.qwen3_vl.weights import build_network, expected_shapes, find_tensors, parameter_count

LARGE_CHECKPOINT = MOST_PARAMETERS_BESIDE_A_CARD
"""Number of parameters above which a checkpoint is too slow on a CPU."""

_LETTERS_OF_SCRIPTS = {
    "Latin": "a", "Cyrillic": "ж", "Arabic": "ع", "Hebrew": "ש", "Devanagari": "क",
    "Chinese": "港", "Japanese": "あ", "Korean": "한",
}  # fmt: skip

_DRIVER_FILE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """The chosen device, and the versions of its software."""

    compute: Compute
    name: str  # the card's, or cpu
    torch_version: str
    cuda_version: str | None  # of the torch build; None: a build without CUDA
    driver_version: str | None  # None: no driver, or its version is unknown
    compute_capability: str | None  # None on a CPU
    total_bytes: int | None  # of the card
    free_bytes: int | None
    cores: int


def examine_device(config: RerankerConfig) -> DeviceFacts:
    """The device that a start would choose. Raises: ConfigurationError for a missing device."""
    compute = choose_compute(config.device, config.dtype)
    capability, total, free = None, None, None
    if compute.device.type == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability(compute.device)))
        free, total = torch.cuda.mem_get_info(compute.device)
    return DeviceFacts(
        compute=compute,
        name=compute.description,
        torch_version=torch.__version__,
        cuda_version=torch.version.cuda,
        driver_version=_driver_version(),
        compute_capability=capability,
        total_bytes=total,
        free_bytes=free,
        cores=os.cpu_count() or 1,
    )


def _driver_version() -> str | None:
    """The version in the kernel module's file: `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  …`."""
    try:
        found = re.search(r"Module\D*?(\d+(?:\.\d+)+)", _DRIVER_FILE.read_text())
    except OSError:
        return None
    return found.group(1) if found else None


def card_obstacle() -> str | None:
    """The reason why CUDA cannot use the card of this machine; None if it can, or if there is no card."""
    return card_without_cuda()


def card_count() -> int:
    """Number of NVIDIA cards on the PCI bus, usable by CUDA or not."""
    return len(nvidia_cards())


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFacts:
    """A checkpoint whose configuration and tokenizer are valid. `examine_weights` checks its weights."""

    name: str
    folder: Path
    revision: str | None  # the hub's commit; None for a folder
    architecture: str
    parameters: int
    model_config: ModelConfig
    prompts: PromptBuilder


def examine_checkpoint(name: str, *, revision: str | None = None) -> CheckpointFacts:
    """Find a checkpoint on this machine, and read its configuration and its tokenizer. Raises: CheckpointError."""
    checkpoint = find_local_checkpoint(name, revision=revision)
    model_config = read_model_config(checkpoint.folder)
    prompts = PromptBuilder(
        load_tokenizer(checkpoint.folder),
        image_token_id=model_config.image_token_id,
        vision_start_token_id=model_config.vision_start_token_id,
    )
    return CheckpointFacts(
        name=name,
        folder=checkpoint.folder,
        revision=checkpoint.revision,
        architecture=ARCHITECTURE,
        parameters=parameter_count(model_config),
        model_config=model_config,
        prompts=prompts,
    )


def missing_download(name: str, *, revision: str | None = None) -> int | None:
    """The bytes of a hub checkpoint that are not on this machine yet; None for a folder.

    Queries the hub. Raises: CheckpointError if the hub refuses or cannot be reached.
    """
    return bytes_to_download(name, revision=revision) if is_hub_id(name) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFacts:
    """Contents of the headers of a checkpoint's weight files. Every tensor is present in the right shape."""

    tensors: int
    files: int
    file_bytes: int
    dtypes: tuple[str, ...]  # as in safetensors headers, the most frequent first


def examine_weights(checkpoint: CheckpointFacts) -> WeightFacts:
    """Check the names and shapes of all tensors. Raises: CheckpointError with the name of the bad tensor or file."""
    config = checkpoint.model_config
    found = find_tensors(checkpoint.folder, build_network(config), config)
    files = {tensor.file for tensor in found.values()}
    letter = max(checkpoint.prompts.letter_ids)
    if letter >= config.text.vocab_size:
        raise CheckpointError(
            f"The tokenizer's id {letter} is not among the {config.text.vocab_size} rows of the vocabulary head. "
            "Use the tokenizer that belongs to the weights."
        )
    return WeightFacts(
        tensors=len(found),
        files=len(files),
        file_bytes=sum(file.stat().st_size for file in files),
        dtypes=tuple(dtype for dtype, _ in Counter(tensor.dtype for tensor in found.values()).most_common()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionFacts:
    """One tower's attention kernel, and the reasons why others cannot run."""

    chosen: str
    reason: str
    obstacles: dict[str, str | None]  # for every kernel by name; None: it can run here


def examine_attention(
    config: RerankerConfig, model_config: ModelConfig, compute: Compute
) -> tuple[AttentionFacts, AttentionFacts]:
    """The kernels of the vision tower and of the decoder. If several run on a card, they are timed, as at a start.

    Raises: ConfigurationError if a configured kernel cannot run.
    """
    vision, text = choose_kernels(config, model_config, compute)
    head_dims = model_config.vision.head_dim, model_config.text.head_dim
    first, second = (
        AttentionFacts(
            chosen=kernel.name,
            reason=kernel.reason,
            obstacles={name: unavailable_reason(name, compute, head_dim) for name in KERNELS},
        )
        for kernel, head_dim in zip((vision, text), head_dims, strict=True)
    )
    return first, second


@dataclass(frozen=True, slots=True, kw_only=True)
class CompilationFacts:
    """Whether a start would compile the layers, and why."""

    is_on: bool
    reason: str


def examine_compilation(config: RerankerConfig, compute: Compute) -> CompilationFacts:
    """Decide on compilation without compiling. A failure of the compiler shows only in a forward pass."""
    is_on, reason = decide_compilation(config.compile, compute)
    return CompilationFacts(is_on=is_on, reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFacts:
    """The planned format of the weights, and the memory plan of a card."""

    quantise: str
    reason: str
    weight_bytes: int
    batch: BatchLimits
    plan: MemoryPlan | None  # None on a CPU
    host_bytes: int | None  # memory of the machine; None if the system does not report it


def examine_memory(config: RerankerConfig, checkpoint: CheckpointFacts, compute: Compute) -> MemoryFacts:
    """Plan the memory as a start does.

    Raises: ConfigurationError for a card that is too small, with the figures, and for a quantisation that it cannot run.
    """
    model_config = checkpoint.model_config
    shapes = expected_shapes(build_network(model_config))
    largest = max_window_cost(checkpoint.prompts, model_config, config.max_query_characters)
    placement = place(config, model_config, shapes, compute, largest)
    return MemoryFacts(
        quantise=placement.quantise,
        reason=placement.quantise_reason,
        weight_bytes=weight_bytes(shapes, model_config, compute.dtype, placement.quantise),
        batch=placement.batch,
        plan=placement.memory,
        host_bytes=_host_bytes(),
    )


def _host_bytes() -> int | None:
    """Memory of the machine. Ignores the memory limit of a container."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not on this system
        return None


def usable_fonts() -> tuple[Path, ...]:
    """The fonts of this machine for rendering text, in order of preference."""
    return tuple(path for path in installed_fonts() if is_usable(path))


def scripts_without_font() -> tuple[str, ...]:
    """The scripts, of some that many people write, whose letters no font of this machine has."""
    return tuple(script for script, letter in _LETTERS_OF_SCRIPTS.items() if not has_font(letter))
