"""What `ziprerank doctor` has found, as text for people and as JSON for programs."""

import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["ok", "warning", "failed", "skipped"]

_NAME_COLUMNS = 12
_STATE_COLUMNS = 9
_INDENT = " " * (_NAME_COLUMNS + _STATE_COLUMNS)
_MOST_COLUMNS = 120
_COLUMNS_OF_A_FILE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One part of the machine."""

    name: str
    state: State
    found: str  # sentences
    remedy: str = ""  # what to change; empty where it is ok
    details: dict[str, Any] = field(default_factory=dict)  # figures, as JSON can hold them


def is_ready(checks: Sequence[Check]) -> bool:
    """Whether nothing failed; warnings are allowed."""
    return all(check.state != "failed" for check in checks)


def as_text(check: Check) -> str:
    """Name, state and what was found in columns, and under it what to change."""
    lines = _wrapped(check.found)
    if check.remedy:
        lines += _wrapped(f"To do: {check.remedy}")
    label = check.name.ljust(_NAME_COLUMNS) + check.state.ljust(_STATE_COLUMNS)
    return "\n".join([label + lines[0], *(_INDENT + line for line in lines[1:])])


def _wrapped(text: str) -> list[str]:
    columns = shutil.get_terminal_size((_COLUMNS_OF_A_FILE, 24)).columns if sys.stdout.isatty() else _COLUMNS_OF_A_FILE
    width = max(40, min(columns, _MOST_COLUMNS) - len(_INDENT))
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def verdict(checks: Sequence[Check]) -> str:
    """The last line."""
    failed, warned = (sum(check.state == state for check in checks) for state in ("failed", "warning"))
    if failed:
        return f"Not ready: {_count(failed, 'problem')}, see above."
    warnings = f" {_count(warned, 'warning').capitalize()}, see above." if warned else ""
    if any(check.state == "skipped" for check in checks):
        return f"No problem found, but not everything was tried.{warnings}"
    return f"Ready to serve.{warnings}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def as_json(checks: Sequence[Check]) -> str:
    """One object: `ready`, and every check."""
    return json.dumps({"ready": is_ready(checks), "checks": [asdict(check) for check in checks]}, indent=2)
