"""Where a benchmark's numbers go: one JSON file with the commit, the date, the command and the machine beside the results."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent / "results"


def record(results: Any) -> dict[str, Any]:
    """`results` with what is needed to repeat them."""
    arguments = [Path(sys.argv[0]).stem, *sys.argv[1:]]
    return {
        "command": f"python -m benchmarks.{' '.join(arguments)}",
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "results": results,
    }


def write(name: str, results: Any) -> None:
    """Print the record as the last line of output, and keep it as `results/<name>.json`."""
    FOLDER.mkdir(exist_ok=True)
    text = json.dumps(record(results), indent=1)
    (FOLDER / f"{name}.json").write_text(text + "\n")
    print(json.dumps(json.loads(text)))


def _commit() -> str:
    """The commit that was measured, with a mark where the tree differs from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, check=False
    )
    return described.stdout.strip() or "unknown"
