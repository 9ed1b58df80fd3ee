"""Saves and loads the states of a run, to resume it: the progress, and accelerate's weights, optimiser and random numbers.

A state is written under a temporary name and renamed when complete, so an incomplete one is never loaded.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from model.training.errors import RunFileError
from model.training.run_file import RESUME_AUTO

_PROGRESS_FILE = "progress.json"
_PREFIX = "step-"

Settings = Mapping[str, object]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of a run."""

    step: int = 0  # completed steps
    best: tuple[float, ...] = ()  # recall@1, recall@3, … of the best checkpoint so far; empty before the first


def save_state(accelerator: Accelerator, states: Path, progress: Progress, *, settings: Settings, keep: int) -> Path:
    """Write `states/step-N`, then delete all but the newest `keep` states. All processes must call it.

    settings: see `load_state`.
    """
    state = states / f"{_PREFIX}{progress.step:08d}"
    incomplete = states / f".{state.name}.incomplete"
    if accelerator.is_main_process:
        shutil.rmtree(incomplete, ignore_errors=True)
        incomplete.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(incomplete))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        content = json.dumps({"progress": asdict(progress), "settings": settings}, indent=1)
        (incomplete / _PROGRESS_FILE).write_text(content + "\n", encoding="utf-8")
        shutil.rmtree(state, ignore_errors=True)
        incomplete.rename(state)
        for old in _complete_states(states)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return state


def find_state(resume: str, states: Path) -> Path | None:
    """The state that the setting `training.resume` selects; None to start from step 0. Raises: RunFileError."""
    if not resume:
        return None
    if resume == RESUME_AUTO:
        return next(reversed(_complete_states(states)), None)
    if not (Path(resume) / _PROGRESS_FILE).is_file():
        raise RunFileError(
            f"training.resume is {resume!r}, which holds no saved state. It must be auto, empty, or a folder in {states}."
        )
    return Path(resume)


def load_state(accelerator: Accelerator, state: Path, *, settings: Settings) -> Progress:
    """Restore the run from `state`.

    settings: all settings, by name, that influence the steps.
    Raises: RunFileError if the settings differ from those that were saved with the state.
    """
    saved: dict[str, Any] = json.loads((state / _PROGRESS_FILE).read_text(encoding="utf-8"))
    now: dict[str, Any] = json.loads(json.dumps(settings))
    changed = [
        f"{name} was {saved['settings'].get(name)!r} and is {now.get(name)!r}"
        for name in {**saved["settings"], **now}
        if saved["settings"].get(name) != now.get(name)
    ]
    if changed:
        raise RunFileError(
            f"The run cannot resume from {state}: {'; '.join(changed)}. Restore these settings, or start a new run: "
            "choose another training.log_folder, or an empty training.resume."
        )
    accelerator.load_state(str(state))
    logger.info("resumed from %s", state)
    return Progress(step=saved["progress"]["step"], best=tuple(saved["progress"]["best"]))


def _complete_states(states: Path) -> list[Path]:
    """The complete states, oldest first."""
    return sorted(state for state in states.glob(f"{_PREFIX}*") if (state / _PROGRESS_FILE).is_file())
