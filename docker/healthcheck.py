"""Exits with 0 while the service in this container is live: the image's HEALTHCHECK. Kubernetes has probes of its own."""

import http.client
import os
import sys

_TIMEOUT_SECONDS = 4.0  # below the HEALTHCHECK's own


def is_live(port: int) -> bool:
    """Whether `/livez` on this port of the container answers 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not is_live(int(os.environ.get("ZIPRERANK_PORT", "8000"))))
