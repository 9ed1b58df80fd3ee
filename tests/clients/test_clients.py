"""What each client must get: the service's own order, whatever the client sends it and however it reads the answer."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from service.commands.demo import QUERY
from tests.clients.catalogue import CLIENTS, Client, ImageForm, Shown
from tests.clients.conftest import KEY, REGISTERED, RankingService
from tests.clients.environments import TIE, FamilyProcess

Family = Callable[[str], FamilyProcess]
Ranking = list[tuple[int, float]]

TEXTS = (
    "The storm of that winter broke windows and took roofs away.",
    "The football club won the league title twice.",
    "The bank gives a loan to any small business, with low interest.",
    "The kitchen of the old hotel is famous for fish soup.",
    "A train leaves the station every hour.",
)
MANY_TEXTS = (
    *TEXTS,
    *("The school stands on the hill.", "The hospital has eighty beds.", "The court sits in a stone house."),
    *("The museum tells of the war.", "The music festival begins in summer.", "The town votes for a mayor in spring."),
    *("The island has a research station.", "The river runs through the valley.", "The police found the car."),
    *("The farmer sells milk and eggs.", "The church is very old.", "The garden is full of flowers."),
    *("The market opens early.", "The library has many books.", "The doctor came too late."),
)
RIGHT_PAGE = 5  # of the demo's PDF: it alone has all words of the query
PAGES = (1, 4, RIGHT_PAGE, 9)
SPOILT_IMAGE = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAA"


def named(client: Client) -> str:
    return f"{client.family}-{client.name}"


each_client = pytest.mark.parametrize("client", CLIENTS, ids=named)
each_image_form = pytest.mark.parametrize(
    ("client", "form"),
    [pytest.param(client, form, id=f"{named(client)}-{form}") for client in CLIENTS for form in client.images],
)


def ask(
    family: Family,
    service: RankingService,
    client: Client,
    documents: Sequence[Any],
    *,
    top_n: int | None = None,
    key: str = KEY,
) -> dict[str, Any]:
    case = {"root": service.root, "key": key, "model": "demo", "query": QUERY, "documents": documents, "top_n": top_n}
    return family(client.family).answer({"client": client.name, **case})


def ranking_of(answer: dict[str, Any], client: Client) -> Ranking:
    """Places and scores, checked: no place twice, finite numbers, the best first."""
    assert "ranking" in answer, answer
    ranking = [(index, score) for index, score in answer["ranking"]]
    scores = [score for _, score in ranking]
    # JavaScript has one type of numbers and writes 1.0 as 1.
    assert all(isinstance(score, float) or client.family == "node" for score in scores), scores
    assert all(math.isfinite(score) for score in scores), scores
    assert scores == sorted(scores, reverse=True)
    assert len({index for index, _ in ranking}) == len(ranking)
    return ranking


def assert_in_order(ranking: Ranking, logits: Sequence[float]) -> None:
    """A client's order must be that of the logits, which must not be the order of the request."""
    assert any(later > earlier + 10 * TIE for earlier, later in itertools.pairwise(logits)), logits
    given = [logits[index] for index, _ in ranking]
    assert all(better > worse - TIE for better, worse in itertools.pairwise(given)), (ranking, logits)


@each_client
def test_texts_come_in_the_order_of_their_logits(family: Family, service: RankingService, client: Client) -> None:
    ranking = ranking_of(ask(family, service, client, TEXTS), client)
    assert len(ranking) == len(TEXTS)
    assert_in_order(ranking, service.logits(QUERY, TEXTS))


@each_client
def test_top_n_gives_the_best_alone(family: Family, service: RankingService, client: Client) -> None:
    ranking = ranking_of(ask(family, service, client, TEXTS, top_n=2), client)
    logits = service.logits(QUERY, TEXTS)
    given = {index for index, _ in ranking}
    assert len(ranking) == 2
    assert_in_order(ranking, logits)
    others = [logit for index, logit in enumerate(logits) if index not in given]
    assert min(logits[index] for index in given) > max(others) - TIE


@each_client
def test_a_full_window_of_texts_is_one_request(family: Family, service: RankingService, client: Client) -> None:
    """A client that split the list would give scores that do not compare with each other."""
    assert len(MANY_TEXTS) == 20
    logits = service.logits(QUERY, MANY_TEXTS)
    before = service.answered()
    ranking = ranking_of(ask(family, service, client, MANY_TEXTS), client)
    assert service.answered() - before == client.requests
    assert len(ranking) == len(MANY_TEXTS)
    assert_in_order(ranking, logits)


@each_image_form
def test_page_images_are_ranked(
    family: Family, service: RankingService, pages: list[str], client: Client, form: ImageForm
) -> None:
    images = [pages[number - 1] for number in PAGES]
    documents = images if form == "string" else [{"image": image} for image in images]
    ranking = ranking_of(ask(family, service, client, documents), client)
    assert len(ranking) == len(PAGES)
    assert PAGES[ranking[0][0]] == RIGHT_PAGE
    assert_in_order(ranking, service.logits(QUERY, images))


@each_client
def test_registered_pages_are_ranked_by_their_names(family: Family, service: RankingService, client: Client) -> None:
    references = [f"ziprerank://{REGISTERED}#page={number}" for number in PAGES]
    ranking = ranking_of(ask(family, service, client, references), client)
    assert len(ranking) == len(PAGES)
    assert PAGES[ranking[0][0]] == RIGHT_PAGE
    assert_in_order(ranking, service.logits(QUERY, references))


def assert_shown(answer: dict[str, Any], shown: Shown, *, message: str, status: int) -> None:
    """What the client's exception must say of a refusal."""
    assert "error" in answer, f"nothing was refused: {answer}"
    expected = {"message": message, "status": str(status), "nothing": ""}[shown]
    assert expected in answer["error"], answer["error"]


@each_client
def test_a_wrong_key_is_readable_in_the_exception_of_the_client(
    family: Family, service: RankingService, client: Client
) -> None:
    answer = ask(family, service, client, TEXTS, key="another-key")
    assert_shown(answer, client.shows, message="The API key is missing or wrong", status=401)


@pytest.mark.parametrize(
    "client",  # LightRAG waits for seconds before it tries a refused request again; its functions share the code of one
    [client for client in CLIENTS if client.name not in ("lightrag ali_rerank", "lightrag jina_rerank")],
    ids=named,
)
def test_a_refused_document_is_readable_in_the_exception_of_the_client(
    family: Family, service: RankingService, client: Client
) -> None:
    answer = ask(family, service, client, [*TEXTS, SPOILT_IMAGE])
    assert_shown(answer, client.shows_422 or client.shows, message="[5]: the image cannot be decoded", status=422)
