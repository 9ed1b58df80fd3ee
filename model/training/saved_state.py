"""States of a run on disk, to resume from: weights, optimiser and random numbers by accelerate, and how far the run is.

A state is written under a temporary name and renamed when it is complete, so a torn one is never found. Knows no examples.
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
    """How far a run is."""

    step: int = 0  # steps that are done
    best: tuple[float, ...] = ()  # recall@1, recall@3, … of the best checkpoint so far; empty before the first


def save_state(accelerator: Accelerator, states: Path, progress: Progress, *, settings: Settings, keep: int) -> Path:
    """Write `states/step-N`, called by all processes; the newest `keep` states stay. `settings`: see `load_state`."""
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
    """The state that `training.resume` asks for, None to start afresh. Raises: RunFileError."""
    if not resume:
        return None
    if resume == RESUME_AUTO:
        return next(reversed(_complete_states(states)), None)
    if not (Path(resume) / _PROGRESS_FILE).is_file():
        raise RunFileError(
            f"training.resume is {resume!r}, where no saved state lies. It must be auto, empty, or a folder of {states}."
        )
    return Path(resume)


def load_state(accelerator: Accelerator, state: Path, *, settings: Settings) -> Progress:
    """Put the run back to where `state` was saved. `settings`: all on which the steps depend, by name.

    Raises: RunFileError where they are not those that the state was saved with.
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
            f"The run cannot go on from {state}: {'; '.join(changed)}. Put that back, or start afresh: "
            "another training.log_folder, or an empty training.resume."
        )
    accelerator.load_state(str(state))
    logger.info("resumed from %s", state)
    return Progress(step=saved["progress"]["step"], best=tuple(saved["progress"]["best"]))


def _complete_states(states: Path) -> list[Path]:
    """Oldest first."""
    return sorted(state for state in states.glob(f"{_PREFIX}*") if (state / _PROGRESS_FILE).is_file())
