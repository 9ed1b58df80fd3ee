"""The forms of documents and queries as types, for the API description alone: `documents` reads them."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypeAliasType, TypedDict

_NOT_BLANK = r"\S"

NotBlank = Annotated[str, Field(pattern=_NOT_BLANK)]
String = Annotated[
    str,
    Field(
        pattern=_NOT_BLANK,
        description="a text; or a data URI of a PDF or an image, or base64 of one, either with `#page=3` or `#pages=1-3,7` "
        "behind it; or `ziprerank://ID` or `ziprerank://ID#page=3`, a registered document or a page of it; or a JSON object "
        "with `image` or `pdf`",
    ),
]
Address = Annotated[str, Field(min_length=1, description="a data URI, base64, `ziprerank://ID#page=N`, or a URL")]
Label = Annotated[str, Field(max_length=512, description="names the document in the answer")]
FirstStageScore = Annotated[
    float | None, Field(description="of the search that found the document, higher is better; for `ziprerank.blend`")
]
Echoed = Annotated[Any, Field(description="returned with each result of the document")]


class TextPart(TypedDict):
    type: NotRequired[Literal["text"]]
    text: str


class AddressObject(TypedDict):
    url: Address


class ImageUrlPart(TypedDict):
    """An image or a PDF as OpenAI's and vLLM's clients send it."""

    type: NotRequired[Literal["image_url"]]
    image_url: Address | AddressObject
    id: NotRequired[Label]
    first_stage_score: NotRequired[FirstStageScore]
    metadata: NotRequired[Echoed]


class FileObject(TypedDict):
    file_data: Address


class FilePart(TypedDict):
    """A file as OpenAI's clients send it."""

    type: NotRequired[Literal["file"]]
    file: Address | FileObject
    id: NotRequired[Label]
    first_stage_score: NotRequired[FirstStageScore]
    metadata: NotRequired[Echoed]


class ImagePart(TypedDict):
    type: NotRequired[Literal["image"]]
    image: Address


ContentPart = TypeAliasType("ContentPart", TextPart | ImageUrlPart | FilePart | ImagePart)


class ContentDocument(TypedDict):
    """One document of content parts: its one image or PDF, or its texts together."""

    content: NotBlank | Annotated[list[ContentPart], Field(min_length=1)]
    id: NotRequired[Label]
    first_stage_score: NotRequired[FirstStageScore]
    metadata: NotRequired[Echoed]


class ElasticDocument(TypedDict):
    """A text or an image as Elasticsearch sends it."""

    type: Literal["text", "image"]
    format: NotRequired[Literal["text", "base64"]]
    value: NotBlank
    first_stage_score: NotRequired[FirstStageScore]


class FreeDocument(TypedDict):
    """Any other object, of whose fields `rank_fields` names those that make up the text."""


class QueryObject(TypedDict):
    text: NotBlank


class QueryContent(TypedDict):
    content: NotBlank | Annotated[list[TextPart], Field(min_length=1)]


class ElasticQuery(TypedDict):
    type: Literal["text"]
    value: NotBlank


Query = TypeAliasType(
    "Query",
    Annotated[
        NotBlank | QueryObject | QueryContent | ElasticQuery | Annotated[list[TextPart], Field(min_length=1)],
        Field(description="what the pages are ranked by; nothing is stripped or cut. Parts are texts, and are joined"),
    ],
)
