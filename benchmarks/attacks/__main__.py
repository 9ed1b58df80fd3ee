"""What a hostile client costs a good one: its answers a second and the time of /livez, during each attack and without.

    python -m benchmarks.attacks                                  # all attacks, some minutes
    python -m benchmarks.attacks --only dripped_bodies --smoke    # seconds: does it run?

Service, attacker and good client are processes of their own and share this machine's cores. Each attack is measured between two
stretches without one, and compared with their mean.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from benchmarks import results_file
from benchmarks.attacks.attackers import ATTACKS, FEW_FILES
from benchmarks.distribution import percentile
from benchmarks.http_load.target import started_service

LEAST_SHARE = 0.8
MOST_LIVEZ_MS = 100.0
FILES_WHERE_FEW = 256
CONNECTIONS_WITH_FEW_FILES = 400

_HOST = "127.0.0.1"
_SETTLING_SECONDS = 5.0


def main() -> None:
    options = _parse_options()
    seconds = 2.0 if options.smoke else options.seconds
    results: dict[str, Any] = {"seconds": seconds, "attacks": {}}
    chosen = [name for name in ATTACKS if name in options.only]
    flags = [*options.service_flags, "--log-level", "error"]  # the attacks fill the log
    with started_service(options.model, flags) as url:
        results["attacks"].update(_measure(chosen, url, seconds))
    if FEW_FILES in options.only:
        limits = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (FILES_WHERE_FEW, FILES_WHERE_FEW))
        with started_service(options.model, flags, before_exec=limits) as url:
            results["attacks"].update(_measure([FEW_FILES], url, seconds))
    if options.smoke:
        print(json.dumps(results))
        return
    results_file.write("attacks", results)
    missed = [name for name, result in results["attacks"].items() if not _is_met(result)]
    if missed:
        raise SystemExit(f"Under {', '.join(missed)} the good client lost more than it may.")


def _parse_options() -> argparse.Namespace:
    names = [*ATTACKS, FEW_FILES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="checkpoint (default: demo)")
    parser.add_argument("--seconds", type=float, default=15.0, help="length of each stretch (default: 15)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="ATTACK", help=", ".join(names))
    parser.add_argument("--smoke", action="store_true", help="stretches of 2 s, and nothing is kept")
    parser.add_argument("service_flags", nargs="*", help="flags of `ziprerank serve`, after --")
    return parser.parse_args()


def _measure(names: Sequence[str], url: str, seconds: float) -> dict[str, Any]:
    """Each attack by its name, compared with the stretches before and after it."""
    measured = {}
    _good_client(url, seconds)  # fills the caches
    before = _good_client(url, seconds)
    for name in names:
        with _attacked(name, url):
            time.sleep(_SETTLING_SECONDS)
            during = _good_client(url, seconds)
        time.sleep(_SETTLING_SECONDS)
        after = _good_client(url, seconds)
        measured[name] = _compare(before, during, after)
        print(f"{name}: {json.dumps(measured[name])}", file=sys.stderr)
        before = after
    return measured


def _compare(before: dict[str, Any], during: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    alone = (before["answers_per_second"] + after["answers_per_second"]) / 2
    return {
        "answers_per_second_alone": round(alone, 2),
        "answers_per_second": round(during["answers_per_second"], 2),
        "share": round(during["answers_per_second"] / alone, 3),
        "livez_p50_ms": round(percentile(during["livez_ms"], 50), 2),
        "livez_p99_ms": round(percentile(during["livez_ms"], 99), 2),
        "livez_p99_ms_alone": round(percentile([*before["livez_ms"], *after["livez_ms"]], 99), 2),
        "failures": during["failures"],
    }


def _is_met(result: dict[str, Any]) -> bool:
    return bool(result["share"] >= LEAST_SHARE and result["livez_p99_ms"] < MOST_LIVEZ_MS and not result["failures"])


def _good_client(url: str, seconds: float) -> dict[str, Any]:
    port = url.rpartition(":")[2]
    command = [sys.executable, "-m", "benchmarks.attacks.good_client", _HOST, port, str(seconds)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


@contextmanager
def _attacked(name: str, url: str) -> Iterator[None]:
    """While it is entered, the attacker's process runs."""
    attack, connections = name, CONNECTIONS_WITH_FEW_FILES
    if name == FEW_FILES:
        attack = "idle_connections"
    else:
        connections = ATTACKS[name].connections
    port = url.rpartition(":")[2]
    command = [sys.executable, "-m", "benchmarks.attacks.attackers", attack, _HOST, port, str(connections)]
    with subprocess.Popen(command) as attacker:
        try:
            yield
        finally:
            attacker.kill()


if __name__ == "__main__":
    main()
