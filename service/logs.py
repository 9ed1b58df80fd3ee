"""Log lines as `key=value` on standard error, one a request. Never query text, page content or a client's file names."""

import logging
import sys
from collections.abc import Mapping

# The hub client reports each request, uvicorn what `server` says itself, the multipart parser every malformed body.
_CHATTY = {"httpx": logging.WARNING, "uvicorn.error": logging.WARNING, "python_multipart": logging.ERROR}


def configure_logging(level: str) -> None:
    """Send every logger's lines to standard error in one form."""
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    for name, least in _CHATTY.items():
        logging.getLogger(name).setLevel(least)


def fields_line(fields: Mapping[str, object]) -> str:
    """`a=1 b=2`, floats to the microsecond."""
    return " ".join(
        f"{key}={value:.6f}" if isinstance(value, float) else f"{key}={value}" for key, value in fields.items()
    )
