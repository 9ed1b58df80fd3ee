"""Log lines with `key=value` fields on standard error, one a request.

They never hold query text, page content or the file names of a client.
"""

import logging
import sys
from collections.abc import Callable, Mapping

# The hub client logs each of its requests, uvicorn repeats lines of `server`, the multipart parser logs every malformed body.
# httpcore2 logs the headers of answers at the level debug, with the tokens in URLs to which they redirect.
_CHATTY = {
    "httpx": logging.WARNING,
    "httpcore2": logging.WARNING,
    "uvicorn.error": logging.WARNING,
    "python_multipart": logging.ERROR,
}


def configure_logging(level: str, *, more_fields: Callable[[], Mapping[str, object]] = dict) -> None:
    """Send the lines of every logger to standard error in one format.

    more_fields: called for every line, in the thread and context that log it; the fields are put at the end of the line.
    """
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
    """The fields as `a=1 b=2`, floats with six decimals (microseconds, where they are seconds)."""
    return " ".join(
        f"{key}={value:.6f}" if isinstance(value, float) else f"{key}={value}" for key, value in fields.items()
    )
