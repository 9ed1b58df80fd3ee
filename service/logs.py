"""Log lines as `key=value` on standard error, one a request. Never query text, page content or a client's file names."""

import logging
import sys
from collections.abc import Callable, Mapping

# The hub client reports each request, uvicorn what `server` says itself, the multipart parser every malformed body.
_CHATTY = {"httpx": logging.WARNING, "uvicorn.error": logging.WARNING, "python_multipart": logging.ERROR}


def configure_logging(level: str, *, more_fields: Callable[[], Mapping[str, object]] = dict) -> None:
    """Send every logger's lines to standard error in one form, each with what `more_fields` gives where it is logged."""
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s%(more)s",
        force=True,
    )

    def add_fields(record: logging.LogRecord) -> bool:
        fields = fields_line(more_fields())
        record.__dict__["more"] = f" {fields}" if fields else ""
        return True

    for handler in logging.getLogger().handlers:
        handler.addFilter(add_fields)
    for name, least in _CHATTY.items():
        logging.getLogger(name).setLevel(least)


def fields_line(fields: Mapping[str, object]) -> str:
    """`a=1 b=2`, floats to the microsecond."""
    return " ".join(
        f"{key}={value:.6f}" if isinstance(value, float) else f"{key}={value}" for key, value in fields.items()
    )
