"""vLLM's `/score`: one query and a list of documents, by any of four pairs of names; scores in the order of the documents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonDict, JsonValue
from typing_extensions import TypedDict

from service.dialects.answers import Usage, usage_of
from service.dialects.body import JSON, RequestBody
from service.dialects.dialect import DialectRoute, RequestHead
from service.dialects.document_fields import DocumentList
from service.dialects.error_bodies import ErrorBody, write_error
from service.dialects.examples import PNG_URI, QUERY
from service.dialects.request_fields import QueryFields, one_result_each, read_query, validate
from service.dialects.results import results_of
from service.errors import ServiceError
from service.records import RerankAnswer, RerankQuery

_OTHER_NAMES = {
    "query": ("queries", "data_1", "text_1"),
    "documents": ("items", "data_2", "text_2"),
}


def _describe_names(schema: JsonDict) -> None:
    """Each of the fields under any of its names."""
    properties = schema["properties"]
    assert isinstance(properties, dict), "a model's schema has an object of properties"
    either: list[JsonValue] = []
    for name, others in _OTHER_NAMES.items():
        own = properties[name]
        form: JsonValue = {"anyOf": [own, {"type": "array", "items": own}]} if name == "query" else own
        properties.update(dict.fromkeys((name, *others), form))
        either.append({"anyOf": [{"required": [each]} for each in (name, *others)]})
    schema["allOf"] = either
    del schema["required"]


class ScoreRequest(QueryFields):
    """`query` may be named `queries`, `data_1` or `text_1`, and `documents` `items`, `data_2` or `text_2`.

    A list of queries must repeat one query.
    """

    model_config = ConfigDict(json_schema_extra=_describe_names)

    documents: DocumentList
    use_activation: bool | None = Field(None, description="false: letter logits instead of scores in [0, 1]")

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        fields = dict(value)
        for name, others in _OTHER_NAMES.items():
            for other in others:
                if name not in fields and other in fields:
                    fields[name] = fields.pop(other)
        return {**fields, "query": _one_query(fields["query"])} if "query" in fields else fields

    @property
    def wants_logits(self) -> bool:
        return self.use_activation is False


def _one_query(value: Any) -> Any:
    """The one query of a list, which may repeat it for each document."""
    if not isinstance(value, list) or not value:
        return value
    if any(query != value[0] for query in value):
        raise ValueError("several queries were sent; documents are ranked for one. Send a request for each")
    return value[0]


class Score(TypedDict):
    index: int
    object: Literal["score"]
    score: float


class ScoreResponse(TypedDict):
    id: str
    object: Literal["list"]
    created: Annotated[int, Field(description="seconds since 1970")]
    model: str
    data: Annotated[list[Score], Field(description="in the order of the documents")]
    usage: Usage


@dataclass(frozen=True, slots=True)
class VllmScoreDialect:
    """Reads and writes the format."""

    name: str = "vllm_score"
    media_types: Sequence[str] = (JSON,)
    routes: Sequence[DialectRoute] = (
        DialectRoute(
            path="/score",
            prefixes=("", "/v1"),
            name="score",
            summary="Score documents (vLLM)",
            description="Score documents as vLLM does: by one ranking of all of them, in the order in which they were sent.",
            request=ScoreRequest,
            answer=ScoreResponse,
            error=ErrorBody,
            examples={
                "vllm_score": {"queries": QUERY, "documents": ["Revenue rose by 4 %.", PNG_URI]},
                "vllm_score_of_texts": {"text_1": QUERY, "text_2": ["Revenue rose by 4 %.", "The office has moved."]},
                "vllm_score_of_data": {"data_1": QUERY, "data_2": {"content": [{"image_url": {"url": PNG_URI}}]}},
            },
        ),
    )

    def recognises(self, fields: Mapping[str, Any]) -> bool:
        return False  # its routes are its own

    def read(self, body: RequestBody, head: RequestHead) -> RerankQuery:
        """Raises: MalformedBodyError, InvalidRequestError, TooLargeError."""
        request = validate(ScoreRequest, body, head)
        return one_result_each(read_query(request, request.documents, head))

    def write(self, query: RerankQuery, answer: RerankAnswer) -> ScoreResponse:
        scores = [
            Score(index=result.page.document_index, object="score", score=result.score)
            for result in results_of(query, answer).items
        ]
        return ScoreResponse(
            id=answer.request_id,
            object="list",
            created=answer.created,
            model=answer.model,
            data=sorted(scores, key=lambda score: score["index"]),
            usage=usage_of(answer),
        )

    def error(self, error: ServiceError, *, request_id: str, query: RerankQuery | None) -> ErrorBody:
        return write_error(error, request_id=request_id, query=query)
