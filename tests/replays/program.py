"""What a replay is made of: a question, the request that a program makes of it, and the program's reading of the answer."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

Ranking = list[tuple[int, float]]
"""Places of documents and the scores that the program gives them, in the order in which it hands them on."""

Shown = Literal["message", "status", "nothing"]
"""What a program shows of a refusal, to its user or in its log: the service's message, the HTTP status alone, or neither."""


class ProgramFailed(Exception):
    """The program rejects an answer. The text is what it shows or logs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the user of a program wants to be ranked."""

    query: str
    documents: Sequence[Any]  # strings, or objects in the program's own form
    key: str | None
    top_n: int | None = None

    @property
    def wanted(self) -> int:
        return len(self.documents) if self.top_n is None else self.top_n


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramRequest:
    """An HTTP request as a program sends it, less the headers that its HTTP library adds to every request."""

    path: str
    body: Any  # of JSON; a string is sent as it is
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})

    def send(self, client: httpx.Client) -> httpx.Response:
        """The headers are exactly those of the program: httpx would else name a content type that a program leaves out."""
        content = self.body if isinstance(self.body, str) else json.dumps(self.body)
        return client.send(client.build_request("POST", self.path, content=content.encode(), headers=self.headers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program, or one of several ways in which it can be set up."""

    name: str
    source: str  # repository, path and commit that the requests and the reading follow
    request: Callable[[Question], ProgramRequest]
    read: Callable[[Question, httpx.Response], Ranking]  # raises ProgramFailed
    shows: Shown
    sends_key: bool = True
    sends_top_n: bool = True
    batch: int = 20  # documents in a request: its own limit, or as many as a window of the model
    score: Callable[[float], float] = lambda relative: relative  # the program's score of a relative score

    def ask(self, client: httpx.Client, question: Question) -> Ranking:
        """Send the question and read the answer. Raises: ProgramFailed."""
        return self.read(question, self.request(question).send(client))


def json_headers(key: str | None, **more: str) -> dict[str, str]:
    """Of most programs. Underscores in names become hyphens."""
    headers = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in more.items()}}
    return headers if key is None else {**headers, "Authorization": f"Bearer {key}"}


def require_success(response: httpx.Response) -> None:
    """As `raise_for_status` of requests and httpx, whose text has the status and not the body."""
    if response.is_error:
        raise ProgramFailed(f"{response.status_code} {response.reason_phrase} for url: {response.request.url}")


def require(condition: bool, complaint: str) -> None:
    if not condition:
        raise ProgramFailed(complaint)


def filled_by_index(count: int, lines: Sequence[Mapping[str, Any]], score: str) -> Ranking:
    """An array of scores, each put at its document's index. Raises: ProgramFailed for an index outside of it."""
    scores = [0.0] * count
    for line in lines:
        require(0 <= line["index"] < count, f"index {line['index']} of {count} documents")
        scores[line["index"]] = line[score]
    return list(enumerate(scores))
