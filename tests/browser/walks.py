"""Runs walk.mjs, which goes through the playground in a browser, and reads what it saw."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE_SECONDS

HERE = Path(__file__).parent
PACKAGES = HERE.parents[1] / "build" / "browser"
CHROMIUM = os.environ.get("CHROMIUM", "chromium")
"""The command that starts the browser."""


def walk(url: str, *, key: str = "", scheme: str, width: int, query: str, dropped: Path, large: Path) -> dict[str, Any]:
    """What the walk saw. Its pictures are in build/browser/pictures. A walk that cannot go on fails the test.

    key: of the service; empty: it needs none. dropped, large: files that are dropped on the page.
    """
    pictures = PACKAGES / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    options = {
        "url": url,
        "key": key,
        "scheme": scheme,
        "width": width,
        "query": query,
        "dropped": str(dropped),
        "large": str(large),
        "packages": str(PACKAGES),
        "pictures": str(pictures),
        "chromium": shutil.which(CHROMIUM),
        "patience": PATIENCE_SECONDS / 5,
    }
    ended = subprocess.run(
        ["node", str(HERE / "walk.mjs"), json.dumps(options)], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    seen: dict[str, Any] = json.loads(ended.stdout)
    return seen
