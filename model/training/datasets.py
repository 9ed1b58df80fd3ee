"""Reads the examples that a run file names, with the reader for their format."""

from collections.abc import Callable
from pathlib import Path

from model.training.candidates import take_candidates
from model.training.errors import DataError
from model.training.examples import RankingExample
from model.training.run_file import DataSection


def read_examples(data: DataSection) -> tuple[RankingExample, ...]:
    """All examples, each with at most `max_candidates` candidates. Raises: DataError."""
    examples = _READERS[data.format](data)
    if not examples:
        raise DataError(f"No examples were found in {', '.join(data.files)}.")
    return tuple(take_candidates(e, range(min(len(e.pages), data.max_candidates))) for e in examples)


def _read_rank_zephyr(data: DataSection) -> tuple[RankingExample, ...]:
    from model.training.rank_zephyr import read_rank_zephyr

    return tuple(
        example
        for file in data.files
        for example in read_rank_zephyr(Path(file), skip_limit=data.skip_limit, page_size=data.page_size)
    )


def _read_mmdocir(data: DataSection) -> tuple[RankingExample, ...]:
    from model.training.mmdocir import read_mmdocir_training

    files = [Path(file) for file in data.files]
    return tuple(
        read_mmdocir_training(
            files, Path(data.rankings), skip_limit=data.skip_limit, max_candidates=data.max_candidates
        )
    )


_READERS: dict[str, Callable[[DataSection], tuple[RankingExample, ...]]] = {
    "rank_zephyr": _read_rank_zephyr,
    "mmdocir": _read_mmdocir,
}
