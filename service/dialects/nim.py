"""NVIDIA's NIM for reranking: `passages` with text or image in, `rankings` with logits out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from service.dialects.answers import Usage, usage_of
from service.dialects.body import JSON, RequestBody
from service.dialects.dialect import DialectRoute, RequestHead
from service.dialects.document_fields import DocumentList
from service.dialects.error_bodies import ErrorBody, write_error
from service.dialects.examples import PNG_URI, QUERY
from service.dialects.paths import shared_routes
from service.dialects.request_fields import AnswerDefaults, RerankFields, read_query, validate
from service.dialects.results import results_of
from service.errors import ServiceError
from service.records import RerankAnswer, RerankQuery

_DEFAULTS = AnswerDefaults(score="log_odds", score_of_strings="log_odds")
_EXAMPLES = {
    "nim": {
        "model": "nvidia/llama-nemotron-rerank-vl",
        "query": {"text": QUERY},
        "passages": [{"text": "Revenue rose by 4 %."}, {"text": "", "image": PNG_URI}],
        "truncate": "NONE",
    }
}


def _passages(value: Any) -> Any:
    """A passage of text alone is its text, as in a list of strings."""
    if not isinstance(value, list):
        return value
    return [
        passage["text"] if isinstance(passage, dict) and passage.keys() == {"text"} else passage for passage in value
    ]


class NimRequest(RerankFields):
    """Each passage has `text`, `image` or both; the model then looks at the image."""

    passages: Annotated[DocumentList, BeforeValidator(_passages)]
    truncate: str | None = Field(None, description="accepted and ignored: nothing is cut")


class NimRanking(TypedDict):
    index: int
    logit: Annotated[float, Field(description="a sigmoid gives the score relative to the best passage's")]


class NimResponse(TypedDict):
    rankings: Annotated[list[NimRanking], Field(description="best first")]
    usage: Usage


@dataclass(frozen=True, slots=True)
class NimDialect:
    """Reads and writes the format."""

    name: str = "nim"
    media_types: Sequence[str] = (JSON,)
    routes: Sequence[DialectRoute] = (
        DialectRoute(
            path="/ranking",
            prefixes=("/v1", ""),
            name="ranking",
            summary="Rank passages (NIM)",
            description="Rank passages as NVIDIA's NIM does.",
            request=NimRequest,
            answer=NimResponse,
            error=ErrorBody,
            examples=_EXAMPLES,
        ),
        DialectRoute(
            path="/retrieval/{model:path}/reranking",
            prefixes=("/v1",),
            name="ranking_hosted",
            summary="Rank passages (hosted NIM)",
            description="Rank passages as NVIDIA's hosted NIM does; the model of the path is ignored.",
            request=NimRequest,
            answer=NimResponse,
            error=ErrorBody,
            examples=_EXAMPLES,
        ),
        *shared_routes(
            description="Rank passages as NVIDIA's NIM does.",
            request=NimRequest,
            answer=NimResponse,
            error=ErrorBody,
            examples=_EXAMPLES,
        ),
    )

    def recognises(self, fields: Mapping[str, Any]) -> bool:
        return "passages" in fields and "documents" not in fields

    def read(self, body: RequestBody, head: RequestHead) -> RerankQuery:
        """Raises: MalformedBodyError, InvalidRequestError, TooLargeError."""
        request = validate(NimRequest, body, head)
        return read_query(request, request.passages, head, defaults=_DEFAULTS, field="passages")

    def write(self, query: RerankQuery, answer: RerankAnswer) -> NimResponse:
        rankings = [
            NimRanking(index=result.page.document_index, logit=result.score)
            for result in results_of(query, answer).items
        ]
        return NimResponse(rankings=rankings, usage=usage_of(answer))

    def error(self, error: ServiceError, *, request_id: str, query: RerankQuery | None) -> ErrorBody:
        return write_error(error, request_id=request_id, query=query)
