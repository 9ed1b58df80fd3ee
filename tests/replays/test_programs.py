"""The cases that every program has: texts, registered pages, the best alone, a list of its own length, a wrong key."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.replays import catalogue
from tests.replays.catalogue import PROGRAMS
from tests.replays.program import Program, ProgramFailed, Question, Ranking
from tests.replays.services import KEY, REGISTERED, WINDOW, best_first, relative_scores
from tests.servers import RunningService

TEXTS = (
    "The storm of that winter broke windows and took roofs away.",
    "The football club won the league title twice.",
    'The bank gives a "small" loan to any business, with low interest.\nAsk there.',
    "Die Küche des alten Hotels ist für ihre Fischsuppe bekannt.",
    "A train leaves the station every hour.",
)
PAGES = tuple(f"ziprerank://{REGISTERED}#page={number}" for number in range(1, 7))
QUERY = 'bank loan, "low" interest'
BY_PLACE = ("Open WebUI", "RAGFlow", "Milvus", "OpenSearch", "Weaviate")
"""Programs that give scores in the order of their documents."""

each_program = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)


def ask(
    services: tuple[RunningService, RunningService],
    program: Program,
    documents: Sequence[str],
    top_n: int | None = None,
) -> Ranking:
    keyed, unkeyed = services
    key = KEY if program.sends_key else None
    question = Question(query=QUERY, documents=documents, key=key, top_n=top_n)
    return program.ask((keyed if program.sends_key else unkeyed).client, question)


@pytest.fixture(scope="module")
def services(service: RunningService, open_service: RunningService) -> tuple[RunningService, RunningService]:
    return service, open_service


def assert_scores(program: Program, ranking: Ranking, count: int, wanted: int) -> None:
    """The scores of the places that were best, as the program computes them, in its order."""
    expected = {place: program.score(score) for place, score in relative_scores(count).items()}
    if program.name == "RAGFlow (LocalAI)":
        worst = min(expected.values())
        expected = {place: (score - worst) / (1 - worst) for place, score in expected.items()}
    places = [place for place, _ in ranking]
    in_order = sorted(places) if program.name.startswith(BY_PLACE) else best_first(count)[:wanted]
    assert places == in_order
    assert all(isinstance(score, float) for _, score in ranking)
    assert dict(ranking) == pytest.approx({place: expected[place] for place in places}, rel=1e-6, abs=1e-9)


@each_program
def test_texts(services: tuple[RunningService, RunningService], program: Program) -> None:
    wanted = len(TEXTS) if program.sends_top_n else None  # two programs would else ask for the best few alone
    assert_scores(program, ask(services, program, TEXTS, top_n=wanted), len(TEXTS), len(TEXTS))


@each_program
def test_registered_pages_by_string(services: tuple[RunningService, RunningService], program: Program) -> None:
    wanted = len(PAGES) if program.sends_top_n else None
    assert_scores(program, ask(services, program, PAGES, top_n=wanted), len(PAGES), len(PAGES))


@each_program
def test_the_best_alone(services: tuple[RunningService, RunningService], program: Program) -> None:
    if not program.sends_top_n:
        return
    ranking = ask(services, program, PAGES, top_n=2)
    assert len(ranking) == 2
    assert_scores(program, ranking, len(PAGES), 2)


@each_program
def test_as_many_documents_as_it_sends_at_once(
    services: tuple[RunningService, RunningService], program: Program
) -> None:
    """Beyond a window each score is the place alone, and the best has all of it."""
    count = program.batch
    documents = [f"Text {number}" for number in range(count)]
    ranking = ask(services, program, documents, top_n=count if program.sends_top_n else None)
    if count <= WINDOW:
        assert_scores(program, ranking, count, count)
    else:
        assert sorted(place for place, _ in ranking) == list(range(count))
        scores = sorted((score for _, score in ranking), reverse=True)
        assert scores == pytest.approx([(count - rank) / count for rank in range(count)])


@each_program
def test_a_wrong_key_is_shown_as_far_as_the_program_shows_it(service: RunningService, program: Program) -> None:
    question = Question(query=QUERY, documents=TEXTS, key="another-key" if program.sends_key else None)
    with pytest.raises(ProgramFailed) as failed:
        program.ask(service.client, question)
    expected = {"message": "The API key is missing or wrong", "status": "401", "nothing": ""}[program.shows]
    assert expected in str(failed.value)


@each_program
def test_a_document_that_is_not_there_is_named(
    services: tuple[RunningService, RunningService], program: Program
) -> None:
    with pytest.raises(ProgramFailed) as failed:
        ask(services, program, [PAGES[0], "ziprerank://nowhere"])
    expected = {"message": "nowhere", "status": "404", "nothing": ""}[program.shows]
    assert expected in str(failed.value)


@each_program
def test_the_module_names_the_file_that_it_follows(program: Program) -> None:
    [module] = [
        each
        for name, each in sys.modules.items()
        if re.fullmatch(r"tests\.replays\.(?!test_)\w+", name)
        and each is not catalogue
        and any(value is program for value in vars(each).values())
    ]
    documented = re.sub(r"\s", "", module.__doc__ or "")
    repository, path, *commit = program.source.split()
    assert commit and re.fullmatch(r"[\w.-]+/[\w.-]+", repository)
    assert repository.split("/")[1] in documented
    assert Path(path).stem in documented or Path(path).name in documented


def test_names_are_told_apart() -> None:
    assert len({program.name for program in PROGRAMS}) == len(PROGRAMS)
