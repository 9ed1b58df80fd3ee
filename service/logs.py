"""Log lines as `key=value` on standard error, one a request. Never query text, page content or a client's file names."""

import logging
import sys
from collections.abc import Mapping


def configure_logging(level: str) -> None:
    """Send every logger's lines to standard error in one form."""
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    for chatty in ("httpx", "uvicorn.error"):  # the hub client, and what `server` says itself
        logging.getLogger(chatty).setLevel(logging.WARNING)


def fields_line(fields: Mapping[str, object]) -> str:
    """`a=1 b=2`, floats to the microsecond."""
    return " ".join(
        f"{key}={value:.6f}" if isinstance(value, float) else f"{key}={value}" for key, value in fields.items()
    )
