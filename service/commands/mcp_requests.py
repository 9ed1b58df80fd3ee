"""The requests of `ziprerank mcp` to the service. HTTP from the standard library; proxies of the environment are not used."""

import http.client
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

_MAX_ANSWER_BYTES = 64 << 20
_MAX_SHOWN_CHARACTERS = 200  # of an answer that is not ours
_PAGE = "#page="


class PagesError(Exception):
    """The service refused a request or cannot be reached. `str` gives a sentence for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredPages:
    """The registered documents of a service."""

    url: str  # without a slash at its end
    api_key: str | None
    answer_seconds: float  # for the connection, and the longest pause in an answer

    def rank(self, query: str, documents: Sequence[str], top_n: int | None) -> list[Mapping[str, Any]]:
        """The best pages, best first, as in the service's answer. documents: ids, or `ID#page=N`. Raises: PagesError."""
        names = [document.removeprefix("ziprerank://") for document in documents]
        body = {
            "query": query,
            "documents": [{"id": name} for name in names],
            "ziprerank": {"score": "relative", "results": "pages"},
        }
        ids = {quote(name.partition(_PAGE)[0], safe="") for name in names}
        headers = {"X-ZipRerank-Affinity": ids.pop()} if len(ids) == 1 else {}
        answer = self._json("POST", "/v1/rerank", body if top_n is None else {**body, "top_n": top_n}, headers)
        results: list[Mapping[str, Any]] = answer["results"]
        return results

    def list(self, *, after: str, limit: int) -> Mapping[str, Any]:
        """`data`, a page of the documents by id, and `next`. Raises: PagesError."""
        return self._json("GET", f"/documents?{urlencode({'after': after, 'limit': limit})}")

    def image(self, document: str, page: int, width: int) -> bytes:
        """A page as JPEG, at most width pixels wide. Raises: PagesError."""
        name = quote(document.removeprefix("ziprerank://"), safe="")
        return self._exchange("GET", f"/documents/{name}/pages/{page}/image?width={width}")

    def _json(
        self,
        method: str,
        target: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Mapping[str, Any]:
        value = _object(self._exchange(method, target, body, headers))
        if value is None:
            raise PagesError(f"{self.url} gave an answer that is not JSON; is it a ZipRerank service?")
        return value

    def _exchange(
        self,
        method: str,
        target: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """The body of an answer with status 200. Raises: PagesError."""
        address = urlsplit(self.url)
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        sent = {"Content-Type": "application/json"} if body is not None else {}
        sent |= {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        data = None if body is None else json.dumps(body).encode()
        try:
            with closing(kind(address.hostname or "", address.port, timeout=self.answer_seconds)) as connection:
                connection.request(method, f"{address.path}{target}", data, {**sent, **(headers or {})})
                response = connection.getresponse()
                answer = response.read(_MAX_ANSWER_BYTES)
        except TimeoutError as error:
            raise PagesError(f"{self.url} did not answer within {self.answer_seconds:g} s. Try again later.") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise PagesError(f"{self.url} cannot be reached: {reason}. Is the service running?") from error
        if response.status != 200:
            message = (_object(answer) or {}).get("message")
            shown = message if isinstance(message, str) else answer.decode(errors="replace")[:_MAX_SHOWN_CHARACTERS]
            raise PagesError(f"{self.url} answered {response.status}: {shown or response.reason}")
        return answer


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
