"""The numbers that the published code computes for the small checkpoint, as test cases.

Scores agree to 2e-6 (measured); 1e-3 is the bound. `is_resized` marks the cases that depend on the resize kernel's rounding.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

FOLDER = Path(__file__).parent / "data" / "conformance"
CHECKPOINT = FOLDER / "checkpoint"

TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One query with its pages at one keep ratio."""

    name: str
    query: str
    page_names: tuple[str, ...]
    keep_ratio: float
    scores: tuple[float, ...]
    ranking: tuple[int, ...]
    kept: tuple[tuple[int, ...], ...] | None  # None at keep ratio 1
    record: dict[str, Any]  # the whole record, for the intermediate numbers

    def pages(self) -> list[Image.Image]:
        return [load_page(name) for name in self.page_names]

    @property
    def is_resized(self) -> bool:
        sizes = [(grid[2] * 16, grid[1] * 16) for grid in self.record["grid_thw"]]
        return any(load_page(name).size != size for name, size in zip(self.page_names, sizes, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowCase:
    name: str
    query: str
    page_names: tuple[str, ...]
    window_size: int
    stride: int
    ranking: tuple[int, ...]

    def pages(self) -> list[Image.Image]:
        return [load_page(name) for name in self.page_names]


def page_path(name: str) -> Path:
    return FOLDER / "pages" / name


def load_page(name: str) -> Image.Image:
    with Image.open(page_path(name)) as image:
        image.load()
        return image


def _cases() -> list[Case]:
    cases = []
    for record in json.loads((FOLDER / "expected_scores.json").read_text()):
        for key, expected in record.items():
            if key == "full" or key.startswith("keep_"):
                ratio = 1.0 if key == "full" else float(key.removeprefix("keep_"))
                cases.append(
                    Case(
                        name=f"{record['case']}-{ratio:g}",
                        query=record["query"],
                        page_names=tuple(record["pages"]),
                        keep_ratio=ratio,
                        scores=tuple(expected["scores"]),
                        ranking=tuple(expected["ranking"]),
                        kept=tuple(tuple(page) for page in expected["kept"]) if "kept" in expected else None,
                        record=record,
                    )
                )
    return cases


def _window_cases() -> list[WindowCase]:
    return [
        WindowCase(
            name=record["case"],
            query=record["query"],
            page_names=tuple(record["pages"]),
            window_size=record["window"],
            stride=record["stride"],
            ranking=tuple(record["ranking"]),
        )
        for record in json.loads((FOLDER / "expected_windows.json").read_text())
    ]


CASES = _cases()
WINDOW_CASES = _window_cases()
