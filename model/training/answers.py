"""The written form of a ranking: `[C] > [A] > [B]`. The letters A to T stand for the candidates in their given order.

The answer of a teacher is parsed strictly, because the model would learn a wrongly guessed ranking as if it were right.
"""

import re
from collections.abc import Sequence

from model.prompt import LETTERS
from model.training.errors import TeacherError

_IDENTIFIER = re.compile(r"\[([A-T])\]")
_SEPARATOR = ">"
_QUOTED_CHARACTERS = 60


def parse_ranking(text: str, count: int) -> tuple[int, ...]:
    """The indices of `count` pages, best first. White space around the parts and one full stop at the end are allowed.

    Raises: TeacherError unless `text` holds each of the first `count` letters exactly once and no other text.
    """
    parts = text.strip().removesuffix(".").split(_SEPARATOR)
    ranking = tuple(_parse_identifier(part.strip(), text=text) for part in parts)
    _check_complete(ranking, count)
    return ranking


def write_ranking(ranking: Sequence[int]) -> str:
    """The ranking as `[C] > [A] > [B]`, the form that `parse_ranking` reads."""
    return f" {_SEPARATOR} ".join(f"[{LETTERS[index]}]" for index in ranking)


def continue_answer(ranking: Sequence[int]) -> str:
    """The ranking as `C] > [A] > [B]`, to follow a prompt that ends with the first opening bracket."""
    return write_ranking(ranking).removeprefix("[")


def _parse_identifier(part: str, *, text: str) -> int:
    identifier = _IDENTIFIER.fullmatch(part)
    if identifier is None:
        raise TeacherError(
            f"The answer is {_quote(text)}; {_quote(part)} is no identifier. It must be only a ranking such as [A] > [B] > …"
        )
    return LETTERS.index(identifier[1])


def _check_complete(ranking: Sequence[int], count: int) -> None:
    expected, named = set(range(count)), set(ranking)
    faults = {
        "repeats": {index for index in named if ranking.count(index) > 1},
        "leaves out": expected - named,
        "names without a page": named - expected,
    }
    descriptions = [f"{fault} {_letters(indices)}" for fault, indices in faults.items() if indices]
    if descriptions:
        raise TeacherError(f"The answer {' and '.join(descriptions)}; it must name each of {count} pages once.")


def _letters(indices: set[int]) -> str:
    return ", ".join(LETTERS[index] for index in sorted(indices))


def _quote(text: str) -> str:
    return repr(text if len(text) <= _QUOTED_CHARACTERS else f"{text[:_QUOTED_CHARACTERS]}…")
