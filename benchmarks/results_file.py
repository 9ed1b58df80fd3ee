"""Where a benchmark's numbers go: one JSON file with the commit, the date, the command and the machine beside the results."""

import json
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent / "results"


def record(results: Any) -> dict[str, Any]:
    """`results` with what is needed to repeat them."""
    return {
        "command": " ".join(["python -m", _module(), *sys.argv[1:]]),
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "device": _device(),
            "processor": _processor(),
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


def machine_name() -> str:
    """The device's, fit for a file: `cpu`, `nvidia_h200`."""
    return in_file_name(_device())


def in_file_name(text: str) -> str:
    return re.sub(r"\W+", "_", text).lower()


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _module() -> str:
    """The module that was run, whether it is a file or a package."""
    path = Path(sys.argv[0])
    return f"benchmarks.{path.parent.name if path.name == '__main__.py' else path.stem}"


def _processor() -> str:
    """Its model's name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _commit() -> str:
    """The commit that was measured, with a mark where the tree differs from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, check=False
    )
    return described.stdout.strip() or "unknown"
