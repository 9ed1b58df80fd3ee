"""Writes configuration.md of this folder from the settings of the service.

    python -m docs.write_configuration

A test compares the two (tests/service/test_configuration_page.py).
"""

from collections.abc import Iterator
from pathlib import Path

from pydantic_core import PydanticUndefined

from service.settings import PREFIX, Settings

PAGE = Path(__file__).with_name("configuration.md")

SECTIONS = {
    "model": "Model",
    "feature_cache_gpu_bytes": "Feature caches",
    "host": "HTTP",
    "tracing": "Tracing and logging",
    "document_store": "Registered documents and sharing",
    "url_fetch": "Documents from URLs",
    "max_pages": "Limits of requests",
    "max_batch_tokens": "Batches, queue and time",
    "page_cache_bytes": "Rendering",
    "drain_delay_seconds": "Shutdown",
}
"""Headings by the first setting below each; the settings follow in the order of the code."""

_HEAD = f"""\
<!-- Written by `python -m docs.write_configuration` from service/settings.py: change that. -->

# Configuration

Every setting is a variable and a flag of `ziprerank serve`; the flag wins. `ziprerank doctor` and `ziprerank rank` read the
same variables. A variable that begins with `{PREFIX}` and names no setting ends the start with a message, so that a misspelt
limit is not ignored.

An empty default means that the setting is absent unless you set it; the description says which value holds then. Settings
that are on or off take `on`, `off`, `true`, `false`, `1` and `0`. Sizes are in bytes and times in seconds, unless the name
says otherwise. `GET /info` shows the limits of a running service.
"""


def configuration_page() -> str:
    """The page. Raises: ValueError where `SECTIONS` names no setting."""
    if unknown := SECTIONS.keys() - Settings.model_fields.keys():
        raise ValueError(f"SECTIONS names {', '.join(sorted(unknown))}, and there are no such settings.")
    return "\n".join([_HEAD, *(line for name in Settings.model_fields for line in _lines(name))]) + "\n"


def _lines(name: str) -> Iterator[str]:
    """The row of a setting, below a heading where it is the first of a section."""
    if name in SECTIONS:
        is_first_section = name == next(iter(Settings.model_fields))
        yield from ([] if is_first_section else [""])
        yield from [f"## {SECTIONS[name]}", "", "| variable | flag | default | meaning |", "| --- | --- | --- | --- |"]
    description = str(Settings.model_fields[name].description).replace("|", "\\|")
    yield f"| `{PREFIX}{name.upper()}` | `--{name.replace('_', '-')}` | {shown_default(name)} | {description} |"


def shown_default(name: str) -> str:
    """The default as text. Empty where it depends on the machine, or where the setting is absent."""
    default = Settings.model_fields[name].default
    if default is PydanticUndefined or default is None or default == "":
        return ""
    if isinstance(default, bool):
        return "`on`" if default else "`off`"
    if isinstance(default, int):
        return f"{default:,}" if default > 9999 else f"{default}"
    return f"{default:g}" if isinstance(default, float) else f"`{default}`"


if __name__ == "__main__":
    PAGE.write_text(configuration_page())
