"""Reads a run file in TOML into frozen records, with the published settings of the stage as defaults.

`runs/stage1.toml` and `runs/stage2.toml` hold every key with its explanation and its published value. The run file of a user
needs only the keys that differ, and `section.key=value` on the command line overrides both. Unknown keys and impossible values
are refused.
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from model.config import MAX_WINDOW_SIZE
from model.training.errors import RunFileError

STAGES = ("stage1", "stage2")
PUBLISHED = Path(__file__).parent / "runs"
RESUME_AUTO = "auto"

_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple[str, ...]: "a list of texts",
}

Table = dict[str, Any]
Section = TypeVar("Section")


def _one_of(*choices: str) -> Any:
    return field(metadata={"choices": choices})


def _between(least: float, most: float = math.inf) -> Any:
    return field(metadata={"least": least, "most": most})


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSection:
    """The checkpoint to train, and the folder for the result."""

    checkpoint: str
    revision: str  # empty: the main branch on the hub
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSection:
    """The training data. The field `format` decides which of the other fields apply."""

    format: str = _one_of("rank_zephyr", "mmdocir")
    files: tuple[str, ...]
    rankings: str  # mmdocir only: the file of teacher rankings
    page_size: int = _between(32)  # rank_zephyr only: pixels
    max_candidates: int = _between(2, MAX_WINDOW_SIZE)
    shuffle_candidates: bool
    held_out: int = _between(0)  # examples for evaluation only
    skip_limit: int = _between(0)  # unusable records that may be skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSection:
    """The loss: the weighted sum of a ranking loss and a language loss."""

    ranking: str = _one_of("rank_net", "soft_ranking")
    ranking_weight: float = _between(0)
    language_weight: float = _between(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserSection:
    """The optimiser, its learning-rate schedule and the batch sizes."""

    name: str = _one_of("adamw", "adamw_8bit")
    schedule: str = _one_of("cosine")
    learning_rate: float = _between(0)
    warmup_steps: int = _between(0)
    epochs: int = _between(1)
    batch_size: int = _between(1)  # examples per device and pass
    accumulate_steps: int = _between(1)  # passes per step
    weight_decay: float = _between(0)
    clip_norm: float = _between(0)  # largest norm of the gradient; 0: no clipping


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSection:
    """Randomness, precision, memory, evaluation, saving and resuming."""

    seed: int = _between(0)
    keep_ratio: float = _between(0.001, 1)
    train_vision: bool
    gradient_checkpointing: bool
    precision: str = _one_of("bf16", "no")
    evaluate_every: int = _between(0)  # steps; 0: never
    save_every: int = _between(0)  # steps; 0: only when interrupted
    keep_checkpoints: int = _between(1)
    log_folder: str
    resume: str  # auto: the newest saved state; or the folder of a state; empty: start from step 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """All settings of a training run."""

    model: ModelSection
    data: DataSection
    loss: LossSection
    optimiser: OptimiserSection
    training: TrainingSection


def read_run_file(stage: str, run_file: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The published settings of `stage`, overridden by `run_file`, overridden by `overrides` (each `section.key=value`).

    Raises: RunFileError, which names the file, the key and the allowed values.
    """
    if stage not in STAGES:
        raise RunFileError(f"The stage is {stage!r}; it must be one of {', '.join(STAGES)}.")
    layers = [(str(file), _read_toml(file)) for file in (PUBLISHED / f"{stage}.toml", run_file)]
    layers += [(f"--set {override}", _read_override(override)) for override in overrides]
    table: Table = {}
    for place, layer in layers:
        _check_names(layer, place)
        table = {section: {**table.get(section, {}), **layer.get(section, {})} for section in _SECTIONS}
    return RunConfig(**{name: _make(kind, name, table[name], str(run_file)) for name, kind in _SECTIONS.items()})


_SECTIONS: Mapping[str, type] = get_type_hints(RunConfig)


def _read_toml(file: Path) -> Table:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RunFileError(f"The run file {file} cannot be read ({type(error).__name__}).") from error
    except tomllib.TOMLDecodeError as error:
        raise RunFileError(f"{file} is not TOML: {error}.") from error


def _read_override(override: str) -> Table:
    """`section.key=value` as a table. A value that is not TOML, such as an unquoted path, is taken as a text."""
    name, equals, text = override.partition("=")
    section, point, key = name.strip().partition(".")
    if not equals or not point:
        raise RunFileError(f"--set {override}: it must have the form section.key=value, for example training.seed=2.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    return {section: {key: value}}


def _check_names(table: Table, place: str) -> None:
    """Check that all sections and keys exist. Raises: RunFileError."""
    for section, keys in table.items():
        if section not in _SECTIONS:
            raise RunFileError(f"{place}: there is no section {section!r}; there are {', '.join(_SECTIONS)}.")
        if not isinstance(keys, dict):
            raise RunFileError(f"{place}: {section} is {keys!r}; it must be a section, [{section}].")
        known = [field.name for field in fields(_SECTIONS[section])]
        for key in keys:
            if key not in known:
                raise RunFileError(f"{place}: there is no key {key!r} in [{section}]; there are {', '.join(known)}.")


def _make(kind: type[Section], name: str, table: Table, place: str) -> Section:
    hints = get_type_hints(kind)
    values = {}
    for entry in fields(kind):  # type: ignore[arg-type]
        where = f"{place}: {name}.{entry.name}"
        values[entry.name] = _converted(table[entry.name], hints[entry.name], where)
        _check_limits(values[entry.name], entry.metadata, where)
    return kind(**values)


def _converted(value: Any, kind: Any, where: str) -> Any:
    """`value` as `kind`. Only whole numbers are converted, where a fractional one is expected. Raises: RunFileError."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind == tuple[str, ...] and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if kind in (bool, int, float, str) and type(value) is kind:
        return value
    raise RunFileError(f"{where} is {value!r}; it must be {_KINDS[kind]}.")


def _check_limits(value: Any, limits: Mapping[str, Any], where: str) -> None:
    if "choices" in limits and value not in limits["choices"]:
        raise RunFileError(f"{where} is {value!r}; it must be one of {', '.join(limits['choices'])}.")
    if "least" in limits and not limits["least"] <= value <= limits["most"]:
        most = "" if limits["most"] == math.inf else f" and at most {limits['most']:g}"
        raise RunFileError(f"{where} is {value}; it must be at least {limits['least']:g}{most}.")
