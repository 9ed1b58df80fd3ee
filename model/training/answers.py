"""The written form of a ranking: `[C] > [A] > [B]`, letters A to T by a page's place among the candidates.

Knows neither prompts nor endpoints. A teacher's answer is read strictly: a guess would be learnt as if it were meant.
"""

import re
from collections.abc import Sequence

from model.prompt import LETTERS
from model.training.errors import TeacherError

_IDENTIFIER = re.compile(r"\[([A-T])\]")
_SEPARATOR = ">"
_QUOTED_CHARACTERS = 60


def parse_ranking(text: str, count: int) -> tuple[int, ...]:
    """Indices of `count` pages, best first. White space around the parts and one full stop at the end are allowed.

    Raises: TeacherError unless every one of the first `count` letters stands there exactly once, and nothing else.
    """
    parts = text.strip().removesuffix(".").split(_SEPARATOR)
    ranking = tuple(_parse_identifier(part.strip(), text=text) for part in parts)
    _check_complete(ranking, count)
    return ranking


def write_ranking(ranking: Sequence[int]) -> str:
    """`[C] > [A] > [B]`: what `parse_ranking` reads."""
    return f" {_SEPARATOR} ".join(f"[{LETTERS[index]}]" for index in ranking)


def continue_answer(ranking: Sequence[int]) -> str:
    """`C] > [A] > [B]`: the same after the prompt, which ends with the first opening bracket."""
    return write_ranking(ranking).removeprefix("[")


def _parse_identifier(part: str, *, text: str) -> int:
    identifier = _IDENTIFIER.fullmatch(part)
    if identifier is None:
        raise TeacherError(
            f"The answer is {_quote(text)}; {_quote(part)} is no identifier. It must read [A] > [B] > … and hold nothing else."
        )
    return LETTERS.index(identifier[1])


def _check_complete(ranking: Sequence[int], count: int) -> None:
    expected, named = set(range(count)), set(ranking)
    faults = {
        "repeats": {index for index in named if ranking.count(index) > 1},
        "leaves out": expected - named,
        "names without a page": named - expected,
    }
    complaints = [f"{fault} {_letters(indices)}" for fault, indices in faults.items() if indices]
    if complaints:
        raise TeacherError(f"The answer {' and '.join(complaints)}; it must name each of {count} pages once.")


def _letters(indices: set[int]) -> str:
    return ", ".join(LETTERS[index] for index in sorted(indices))


def _quote(text: str) -> str:
    return repr(text if len(text) <= _QUOTED_CHARACTERS else f"{text[:_QUOTED_CHARACTERS]}…")
