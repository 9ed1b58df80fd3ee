"""Which cases a run has, and where the failing ones are kept."""

import hashlib
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

SECONDS_IN_ALL_TESTS = 4.0
_FEWEST_CASES = 100
FOLDER = Path(__file__).parents[2] / "build" / "fuzz"


@dataclass(kw_only=True)
class FuzzRun:
    """The cases of one test: from a seed, until the time is up, or those that FUZZ_CASES names."""

    name: str
    folder: Path = FOLDER
    seconds: float = field(default_factory=lambda: float(os.environ.get("FUZZ_SECONDS", SECONDS_IN_ALL_TESTS)))
    seed: str = field(default_factory=lambda: os.environ.get("FUZZ_SEED", "0"))
    only: str = field(default_factory=lambda: os.environ.get("FUZZ_CASES", ""))
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def cases(self) -> Iterator[int]:
        """Numbers; hand each to `random`. May be shared by several tasks of one thread."""
        if self.only:
            first, _, last = self.only.partition("-")
            yield from range(int(first), int(last or first) + 1)
            return
        ends_at = time.monotonic() + self.seconds
        yield from itertools.takewhile(
            lambda number: number < _FEWEST_CASES or time.monotonic() < ends_at, itertools.count()
        )

    def random(self, number: int) -> Random:
        """The generator of one case: all that is drawn for it comes from there."""
        return Random(f"{self.name} {self.seed} {number}")

    def note(self, outcome: str) -> None:
        """Count how a case that passed has ended."""
        self.outcomes[outcome] += 1

    def fail(self, number: int, data: bytes, complaint: str, **details: Any) -> None:
        """Count and keep a case that failed."""
        self.outcomes["FAILED"] += 1
        path = self.keep(number, data, complaint=complaint, **details)
        self.failures.append(f"case {number}: {complaint}: {path}")

    def keep(self, number: int, data: bytes, **details: Any) -> Path:
        """Store an input under its hash, and beside it how it was made and what happened."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / hashlib.sha256(data).hexdigest()[:16]
        path.write_bytes(data)
        made = {"test": self.name, "seed": self.seed, "case": number}
        path.with_name(f"{path.name}.json").write_text(json.dumps(made | details, indent=1) + "\n")
        return path

    def report(self) -> None:
        """Print the outcomes, and how to have the cases again. Raises: AssertionError where a case failed."""
        print(f"{self.name}: seed {self.seed}, {self.outcomes.total()} cases: {dict(self.outcomes.most_common())}")
        again = f"FUZZ_SEED={self.seed} FUZZ_CASES=NUMBER python -m pytest tests/fuzzing -k {self.name}"
        assert not self.failures, f"{len(self.failures)} cases failed; {again}\n" + "\n".join(self.failures[:20])
