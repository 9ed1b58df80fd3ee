"""Asks a large model to rank pages, through any endpoint that speaks OpenAI's chat protocol.

The only module of `model` with network access, apart from the download of checkpoints.
"""

import asyncio
import base64
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion
from PIL import Image

from model.prompt import instruction
from model.training.answers import parse_ranking
from model.training.errors import RefusedError, TeacherError
from model.training.examples import OpenPage
from model.training.rate_limit import RateLimit
from model.training.spending import Usage

logger = logging.getLogger(__name__)

_REPEATED_SENDS = 8
"""Retries by the openai package after 429, 5xx or a lost connection: about a minute in all, or the time in Retry-After."""
_JPEG_QUALITY = 90
_SHORTEST_SECRET = 8
"""In characters. Shorter keys are placeholders such as `none`, which may occur in an answer by chance."""
_QUOTED_CHARACTERS = 200
_QUOTA_CODE = "insufficient_quota"

_Content = list[dict[str, Any]]
_Temperature = float | openai.Omit


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherConfig:
    """The endpoint, the model, and the limits of each question. Raises: TeacherError for impossible values."""

    base_url: str
    model: str
    api_key: str = field(repr=False)
    asks: int = 3  # attempts to get a readable answer to a question
    timeout_seconds: float = 600
    longest_edge: int = 2048  # pixels; larger pages are shrunk to it

    def __post_init__(self) -> None:
        if not _is_web_address(self.base_url):
            raise TeacherError("The base URL is not a web address; it must look like https://api.example.com/v1.")
        if not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key.strip()):
            raise TeacherError("The API key is empty, or holds characters that are impossible in a key. Copy it again.")
        for name, value in (("asks", self.asks), ("longest_edge", self.longest_edge)):
            if value < 1:
                raise TeacherError(f"{name} is {value}; it must be at least 1.")
        if not self.timeout_seconds > 0:
            raise TeacherError(f"timeout_seconds is {self.timeout_seconds}; it must be above 0.")

    @property
    def host(self) -> str:
        """The host and port of the URL, for messages, without any user name and password."""
        return urlsplit(self.base_url).netloc.rpartition("@")[2]


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an unclosed bracket, or a port that is not a number
        return False


class Teacher:
    """A client of the endpoint, for one event loop. Many questions may be asked at once; the rate limit delays them."""

    def __init__(self, config: TeacherConfig, *, rate: RateLimit, record_usage: Callable[[Usage | None], None]) -> None:
        """record_usage: called for every answer, usable or not, with None if the endpoint did not count the tokens."""
        self._config = config
        self._rate = rate
        self._record_usage = record_usage
        self._takes_temperature = True
        self._client = _connect(config, rate)

    async def close(self) -> None:
        await self._client.close()

    async def ask(self, query: str, pages: Sequence[OpenPage]) -> tuple[int, ...]:
        """The teacher's ranking: indices into `pages`, best first.

        pages: 1 to 20, opened in a thread, one at a time.
        Raises: QueryError; the errors of opening a page; RefusedError; TeacherError if no answer was usable.
        """
        content = await asyncio.to_thread(_write_question, query, pages, longest_edge=self._config.longest_edge)
        *first, last = _temperatures(self._config.asks)
        for temperature in first:
            try:
                return await self._ask_once(content, len(pages), temperature=temperature)
            except _UnreadableAnswerError as error:
                logger.info("asking again: %s", error)
        return await self._ask_once(content, len(pages), temperature=last)

    async def _ask_once(self, content: _Content, page_count: int, *, temperature: _Temperature) -> tuple[int, ...]:
        answer = await self._send(content, temperature=temperature)
        self._count(_read_usage(answer))
        text = _read_text(answer)
        if text is None:
            raise _UnreadableAnswerError("The answer holds no text.")
        try:
            return parse_ranking(self._without_key(text), page_count)
        except TeacherError as error:
            raise _UnreadableAnswerError(str(error)) from error

    async def _send(self, content: _Content, *, temperature: _Temperature) -> ChatCompletion:
        """Send the question, without a temperature once the endpoint has refused one for this model."""
        tried = temperature if self._takes_temperature else openai.omit
        try:
            return await self._create(content, temperature=tried)
        except openai.BadRequestError as error:
            if isinstance(tried, openai.Omit) or "temperature" not in error.message:
                raise self._translate(error) from error
            logger.warning(
                "%s accepts no temperature for this model; further requests are sent without it", self._config.host
            )
            self._takes_temperature = False
            return await self._send(content, temperature=openai.omit)
        except (openai.OpenAIError, ValueError) as error:  # ValueError: the body is not JSON
            raise self._translate(error) from error

    async def _create(self, content: _Content, *, temperature: _Temperature) -> ChatCompletion:
        """Raises: openai.OpenAIError; ValueError for a body that is no chat completion."""
        messages: Any = [{"role": "user", "content": content}]
        answer: object = await self._client.chat.completions.create(
            model=self._config.model, messages=messages, temperature=temperature
        )
        if not isinstance(answer, ChatCompletion):  # such as a web page, which the package returns as a text
            raise ValueError
        return answer

    def _count(self, usage: Usage | None) -> None:
        self._record_usage(usage)
        if usage is not None:
            self._rate.charge(usage.tokens)

    def _translate(self, error: openai.OpenAIError | ValueError) -> TeacherError:
        host = self._config.host
        if isinstance(error, openai.APITimeoutError):
            return TeacherError(f"{host} did not answer within {self._config.timeout_seconds:g} s.")
        if isinstance(error, openai.APIConnectionError):
            return RefusedError(f"{host} cannot be reached. Is the base URL right, and does the endpoint run?")
        if isinstance(error, openai.APIStatusError):
            return _kind_of_refusal(error)(f"{host} answered {error.status_code}: {self._shorten(error.message)}")
        return TeacherError(
            f"{host} gave an answer that is no chat completion. Is the base URL complete? Most end with /v1."
        )

    def _shorten(self, text: str) -> str:
        return " ".join(self._without_key(text).split())[:_QUOTED_CHARACTERS]

    def _without_key(self, text: str) -> str:
        """The text without the API key, which an endpoint may quote in an answer or an error."""
        key = self._config.api_key
        return text.replace(key, "[key]") if len(key) >= _SHORTEST_SECRET else text


class _UnreadableAnswerError(TeacherError):
    """The answer is no ranking; another attempt may give one."""


def _connect(config: TeacherConfig, rate: RateLimit) -> openai.AsyncOpenAI:
    """A client that applies the rate limit to every request that it sends, also to its own retries."""

    async def wait_for_turn(_request: Any) -> None:
        await rate.wait()

    return openai.AsyncOpenAI(
        base_url=config.base_url,
        api_key=config.api_key,
        max_retries=_REPEATED_SENDS,
        timeout=config.timeout_seconds,
        http_client=openai.DefaultAsyncHttpxClient(event_hooks={"request": [wait_for_turn]}),
    )


def _write_question(query: str, pages: Sequence[OpenPage], *, longest_edge: int) -> _Content:
    """The content of the chat message, in the order of the reranker's own prompt: the instruction, then the pages."""
    text = {"type": "text", "text": instruction(query, len(pages))}
    return [text, *(_write_page(open_page(), longest_edge=longest_edge) for open_page in pages)]


def _write_page(page: Image.Image, *, longest_edge: int) -> dict[str, Any]:
    if max(page.size) > longest_edge:
        page = page.copy()
        page.thumbnail((longest_edge, longest_edge), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    page.save(data, "JPEG", quality=_JPEG_QUALITY)
    uri = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": uri}}


def _temperatures(asks: int) -> list[_Temperature]:
    """A temperature for each attempt: first 0, then the endpoint's default, as 0 would often repeat an unreadable answer."""
    return [0.0, *[openai.omit] * (asks - 1)]


def _read_text(answer: ChatCompletion) -> str | None:
    """The text of the answer; None if there is none. The package does not validate answers: any part may be missing."""
    choices: Any = answer.choices
    choice = choices[0] if isinstance(choices, list) and choices else None
    text = getattr(getattr(choice, "message", None), "content", None)
    return text if isinstance(text, str) else None


def _read_usage(answer: ChatCompletion) -> Usage | None:
    """The token counts of the answer; None unless both are given."""
    prompt_tokens = getattr(answer.usage, "prompt_tokens", None)
    completion_tokens = getattr(answer.usage, "completion_tokens", None)
    if not (isinstance(prompt_tokens, int) and isinstance(completion_tokens, int)):
        return None
    return Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)


def _kind_of_refusal(error: openai.APIStatusError) -> type[TeacherError]:
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError | openai.NotFoundError):
        return RefusedError
    return RefusedError if error.code == _QUOTA_CODE else TeacherError
