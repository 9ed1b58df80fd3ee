"""A real service under steady load, a tenth of it hostile: does it keep memory, handles and scores?

    python -m benchmarks.soak --seconds 600       # make soak
    python -m benchmarks.soak --smoke             # seconds; nothing is kept

Requests arrive at a constant rate below what the service can do. Of the hostile ones some are broken or endless documents,
some senders are slow or disconnect, and some are over a limit or no HTTP. Every few seconds the load pauses for a canary, whose
scores must be the same bits each time. After a tenth of the time, and at the end, all work is finished, and the two states of
the process are compared. Ends with one JSON document and a plot; the exit code is 1 where a goal is missed. Linux only.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import plots, results_file
from benchmarks.http_load.target import started_process
from benchmarks.soak.run import Plan, soak
from benchmarks.soak.traffic import BODY_IDLE_SECONDS, MAX_BODY_BYTES, MAX_PAGES

_SMOKE_SECONDS = 6.0
_CACHE_BYTES = 8 << 20  # of each cache: small, so that it is full after the warm-up
_VARIABLES = {"OMP_NUM_THREADS": "1"}  # threads of one computation wait for each other, most where other programs run
FLAGS = (
    "--device", "cpu", "--rasterizer-processes", "2", "--max-pages", str(MAX_PAGES), "--max-body-bytes", str(MAX_BODY_BYTES),
    "--body-idle-seconds", str(BODY_IDLE_SECONDS), "--page-cache-bytes", str(_CACHE_BYTES),
    "--feature-cache-gpu-bytes", str(_CACHE_BYTES),
)  # fmt: skip


def main() -> None:
    options = _parse_options()
    results = measure(options.seconds, canary_seconds=options.canary_seconds, seed=options.seed)
    if options.smoke:
        print(json.dumps(results))
    else:
        results_file.write("soak", results)
        plots.draw_soak(results, results_file.FOLDER / "soak.png")
    if results["failures"]:
        sys.exit(f"Missed: {results['failures']}")


def measure(seconds: float, *, canary_seconds: float, seed: int) -> dict[str, Any]:
    """Start a service on the demo checkpoint, and soak it; see `soak`."""
    with tempfile.TemporaryDirectory() as folder:
        temporary_folder = Path(folder)
        with (
            started_process("demo", FLAGS, variables={"TMPDIR": folder, **_VARIABLES}) as (url, pid),
            tqdm(total=seconds, bar_format="{l_bar}{bar}") as progress,
        ):
            plan = Plan(
                url=url,
                pid=pid,
                temporary_folder=temporary_folder,
                seconds=seconds,
                canary_seconds=canary_seconds,
                seed=seed,
            )
            return asyncio.run(soak(plan, progress.update))


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="time under load (default: 600)")
    parser.add_argument("--canary-seconds", type=float, default=5.0, help="between two canaries (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the requests (default: 0)")
    parser.add_argument("--smoke", action="store_true", help=f"{_SMOKE_SECONDS:g} seconds; nothing is kept")
    options = parser.parse_args()
    if options.smoke:
        options.seconds, options.canary_seconds = _SMOKE_SECONDS, 1.0
    return options


if __name__ == "__main__":
    main()
