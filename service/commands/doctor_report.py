"""The findings of `ziprerank doctor`, as text for people and as JSON for programs."""

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
_MAX_COLUMNS = 120
_COLUMNS_WITHOUT_TERMINAL = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The result of one check of `ziprerank doctor`."""

    name: str
    state: State
    found: str  # the findings, in sentences
    remedy: str = ""  # the change to make; empty if the state is ok
    details: dict[str, Any] = field(default_factory=dict)  # facts for programs, of types that JSON can hold


def is_ready(checks: Sequence[Check]) -> bool:
    """Whether nothing failed; warnings are allowed."""
    return all(check.state != "failed" for check in checks)


def as_text(check: Check) -> str:
    """The name, state and findings in columns, with the remedy below the findings."""
    lines = _wrapped(check.found)
    if check.remedy:
        lines += _wrapped(f"To do: {check.remedy}")
    label = check.name.ljust(_NAME_COLUMNS) + check.state.ljust(_STATE_COLUMNS)
    return "\n".join([label + lines[0], *(_INDENT + line for line in lines[1:])])


def _wrapped(text: str) -> list[str]:
    columns = _COLUMNS_WITHOUT_TERMINAL
    if sys.stdout.isatty():
        columns = shutil.get_terminal_size((_COLUMNS_WITHOUT_TERMINAL, 24)).columns
    width = max(40, min(columns, _MAX_COLUMNS) - len(_INDENT))
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def verdict(checks: Sequence[Check]) -> str:
    """The last line of the report: whether the machine is ready to serve."""
    failed, warned = (sum(check.state == state for check in checks) for state in ("failed", "warning"))
    if failed:
        return f"Not ready: {_count(failed, 'problem')}, see above."
    warnings = f" {_count(warned, 'warning').capitalize()}, see above." if warned else ""
    if any(check.state == "skipped" for check in checks):
        return f"No problem found, but some checks were skipped.{warnings}"
    return f"Ready to serve.{warnings}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def as_json(checks: Sequence[Check]) -> str:
    """One JSON object with `ready` and the list `checks`."""
    return json.dumps({"ready": is_ready(checks), "checks": [asdict(check) for check in checks]}, indent=2)
