"""Writes the table of limits in SECURITY.md from the settings that bound a client's requests.

    python -m docs.write_limits

A test compares the two (tests/service/test_limits_table.py).
"""

from pathlib import Path

from pydantic_core import PydanticUndefined

from service.settings import LIMITS, PREFIX, Settings

PAGE = Path(__file__).parents[1] / "SECURITY.md"
BEGIN = "<!-- limits:begin, written by `python -m docs.write_limits` from service/settings.py -->"
END = "<!-- limits:end -->"


def limits_table() -> str:
    """A row for each setting. Defaults that depend on the machine are in the description."""
    rows = ["| variable | default | bounds |", "| --- | --- | --- |"]
    for name in LIMITS:
        field = Settings.model_fields[name]
        is_computed = field.default is PydanticUndefined or field.default is None
        default = (
            "" if is_computed else f"{field.default:,g}" if isinstance(field.default, float) else f"{field.default:,}"
        )
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


def updated(page: str) -> str:
    """The page with the table made anew. Raises: ValueError where a mark is missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE.name} needs the marks {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n{limits_table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text()))
