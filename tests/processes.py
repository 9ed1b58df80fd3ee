"""Processes of the service for tests, and the ports that they listen on."""

import os
import re
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from tests.patience import PATIENCE


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def process(*flags: str, module: str = "service", **variables: str) -> Iterator["subprocess.Popen[str]"]:
    """`python -m service` with its log and its input on pipes; ended with the test. Nothing is kept in the home folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ZIPRERANK_")}
    environment["ZIPRERANK_DOCUMENT_STORE"] = "memory://process"
    environment |= {f"ZIPRERANK_{name.upper()}": str(seconds) for name, seconds in PATIENCE.items()}
    running = subprocess.Popen(
        [sys.executable, "-m", module, *flags],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, **variables},
    )
    try:
        yield running
    finally:
        if running.poll() is None:
            running.kill()
        running.communicate()


def listening_url(running: "subprocess.Popen[str]", rest: list[str] | None = None) -> str:
    """The address in the log. The rest of the log is read in the background so that the pipe never fills.

    rest: gets the lines after it.
    """
    assert running.stderr is not None
    for line in running.stderr:
        if found := re.search(r"listening on (http://\S+)", line):
            lines = deque[str](maxlen=0) if rest is None else rest
            threading.Thread(target=lines.extend, args=(running.stderr,), daemon=True).start()
            return found[1]
    raise AssertionError(f"the service ended with {running.wait()} before it listened")
