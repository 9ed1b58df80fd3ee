"""Reads the recipe of a demo training from a TOML file: the look of the pages, and the length and rates of each stage."""

import tomllib
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from model.training.demo.optimiser import LearningRates
from model.training.errors import RunFileError

BUNDLED = ("small", "full")
"""The names of the recipes in the package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The size, font sizes and fonts of the pages."""

    fewest_pixels: int  # a page is resized to at least this area
    most_pixels: int  # a page is resized to at most this area
    smallest_print: float  # points on A4
    largest_print: float
    fonts: tuple[str, ...]  # names of font files, without folder and suffix


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One course of the reading stage."""

    most_pixels: int  # a page is resized to at most this area
    pages: int  # drawn for each phase
    phases: int
    steps: int  # over all phases
    tokens: int  # per step, approximately
    band_rows: tuple[int, ...]  # rows of visual tokens in a band; each step draws one of them, limited to the page
    matrix_rate: float
    other_rate: float

    @property
    def rates(self) -> LearningRates:
        return LearningRates(matrices=self.matrix_rate, others=self.other_rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """One course of the ranking stage."""

    pages: tuple[int, ...]  # in a list; each step draws one of these numbers
    keep_ratios: tuple[float, ...]  # each step draws one of these
    steps: int
    help_share: float  # weight of the auxiliary tasks in the loss
    near_share: float  # share of the wrong pages with some words of the query


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """The ranking stage, as a sequence of courses."""

    pages: int  # in the pool
    tokens: int  # per step, over all its lists, approximately
    courses: tuple[Course, ...]
    matrix_rate: float
    other_rate: float

    @property
    def steps(self) -> int:
        return sum(course.steps for course in self.courses)

    @property
    def rates(self) -> LearningRates:
        return LearningRates(matrices=self.matrix_rate, others=self.other_rate)

    def course(self, step: int) -> Course:
        """The course that `step` (from 0) belongs to."""
        for course in self.courses:
            if step < course.steps:
                return course
            step -= course.steps
        return self.courses[-1]


_SEEDS_A_POOL = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All settings of a demo training."""

    seed: int
    world: World
    reading: tuple[Reading, ...]
    ranking: Lessons

    def page_seeds(self, pool: int, count: int) -> range:
        """The seeds of `count` pages. They differ from those of any other pool and of any other recipe seed."""
        first = (self.seed * 100 + pool) * _SEEDS_A_POOL
        return range(first, first + count)


def read_recipe(name: str) -> Recipe:
    """The bundled recipe called `name`, or the recipe in that file. Raises: RunFileError."""
    bundled = files(__package__).joinpath("recipes", f"{name}.toml")
    source = bundled if name in BUNDLED else Path(name)
    try:
        content = tomllib.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFileError(
            f"The recipe {name!r} is neither {' nor '.join(BUNDLED)} nor a TOML file: {error}"
        ) from error
    return Recipe(
        seed=content.pop("seed", 0),
        world=_section(content, "world", World, name),
        reading=tuple(_section({"reading": course}, "reading", Reading, name) for course in content.get("reading", [])),
        ranking=_lessons(content, "ranking", name),
    )


def _lessons(content: dict[str, Any], key: str, name: str) -> Lessons:
    courses = content.get(key, {}).get("courses", [])
    content[key]["courses"] = [_section({"course": course}, "course", Course, name) for course in courses]
    lessons: Lessons = _section(content, key, Lessons, name)
    return lessons


def _section(content: dict[str, Any], key: str, kind: type, name: str) -> Any:
    given = content.get(key, {})
    known = {field.name for field in fields(kind)}
    if given.keys() != known:
        wrong = ", ".join(sorted(given.keys() ^ known))
        raise RunFileError(
            f"{name}: section [{key}] must have exactly the keys {', '.join(sorted(known))}; see {wrong}."
        )
    return kind(**{field: tuple(value) if isinstance(value, list) else value for field, value in given.items()})
