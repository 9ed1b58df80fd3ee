"""The numbers of a demo training: the world's size and how long each stage takes, from a TOML file.

Knows what the stages need, not what they do.
"""

import tomllib
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from model.training.demo.optimiser import LearningRates
from model.training.errors import RunFileError

BUNDLED = ("small", "full")
"""Recipes in the package, asked for by these names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What pages look like."""

    fewest_pixels: int
    most_pixels: int  # a page is resized to at most this area
    smallest_print: float  # points on A4
    largest_print: float
    fonts: tuple[str, ...]  # names of font files, without their folder and ending


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A course of reading."""

    most_pixels: int  # a page is resized to at most this area
    pages: int  # drawn anew in each phase
    phases: int
    steps: int  # over all phases
    tokens: int  # a step, about
    band_rows: tuple[int, ...]  # of visual tokens: one of them a step, chosen by chance; at most the page's
    matrix_rate: float
    other_rate: float

    @property
    def rates(self) -> LearningRates:
        return LearningRates(matrices=self.matrix_rate, others=self.other_rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A part of the lessons in ranking: lists of that many pages."""

    pages: tuple[int, ...]
    keep_ratios: tuple[float, ...]  # one of them a step, chosen by chance
    steps: int
    help_share: float  # of the helper questions in the loss
    near_share: float  # of the other pages that have some of the query's words


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """The stage of ranking, course by course."""

    pages: int  # in the pool
    tokens: int  # a step, of all its lists, about
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
        """Which one that step belongs to."""
        for course in self.courses:
            if step < course.steps:
                return course
            step -= course.steps
        return self.courses[-1]


_SEEDS_A_POOL = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    seed: int
    world: World
    reading: tuple[Reading, ...]
    ranking: Lessons

    def page_seeds(self, pool: int, count: int) -> range:
        """Of the pages of a pool: no other pool has them, nor another seed's."""
        first = (self.seed * 100 + pool) * _SEEDS_A_POOL
        return range(first, first + count)


def read_recipe(name: str) -> Recipe:
    """A bundled one by its name, or a file. Raises: RunFileError."""
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
