"""The body of errors that most clients read: members of problem+json, Cohere's `message`, OpenAI's `error`, and `detail`."""

from http import HTTPStatus
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from service.errors import ServiceError
from service.records import RerankQuery

_OPTIONS_FIELD = "ziprerank"


class Fault(TypedDict):
    loc: list[str | int]
    msg: str
    type: str


class ErrorDetail(TypedDict):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(TypedDict):
    """The one body of errors, readable by clients of Cohere, OpenAI, Jina and problem+json styles."""

    id: str
    message: str
    detail: Annotated[str | list[Fault], Field(description="a list for status 422 alone")]
    error: ErrorDetail
    type: str
    title: str
    status: int
    code: str
    document_index: int | None
    page: int | None
    request_id: str


def write_error(error: ServiceError, *, request_id: str, query: RerankQuery | None) -> ErrorBody:
    """The message, with the place in front of it as the client named it."""
    message, param = message_and_param(error, query)
    return error_body(
        error.status,
        error.code,
        message,
        request_id=request_id,
        param=param,
        document_index=error.document_index,
        page=error.page,
    )


def message_and_param(error: ServiceError, query: RerankQuery | None) -> tuple[str, str | None]:
    """The whole message of an error, and the field that it is about."""
    place, param = _place(error, query)
    return (f"{place}: {error.message}" if place else error.message), param


def error_body(
    status: int,
    code: str,
    message: str,
    *,
    request_id: str,
    param: str | None = None,
    document_index: int | None = None,
    page: int | None = None,
) -> ErrorBody:
    """`detail` is a list for 422 alone, where infinity's client reads nothing else."""
    location: list[str | int] = ["body"] if document_index is None else ["body", "documents", document_index]
    return ErrorBody(
        id=request_id,
        message=message,
        detail=[Fault(loc=location, msg=message, type=code)] if status == 422 else message,
        error=ErrorDetail(message=message, type=_error_type(status), param=param, code=code),
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        code=code,
        document_index=document_index,
        page=page,
        request_id=request_id,
    )


def _place(error: ServiceError, query: RerankQuery | None) -> tuple[str, str | None]:
    """The place of an error in the client's names: for the sentence (empty: no place), and for `param`."""
    if error.param is not None:  # set by the code that reads this format, whose message has the place
        return "", error.param
    if error.status >= 500:  # a fault of the service, whose message says all
        return "", None
    listed = "documents" if query is None else query.documents_field
    if error.document_index is None:
        name = {"options": _OPTIONS_FIELD, "documents": listed}.get(error.field or "", error.field)
        return ("", name) if name == "id" else (name or "", name)
    document = f"{listed}[{error.document_index}]"
    match error.field:
        case "content" if query is not None and error.page is None:
            name = query.documents[error.document_index].name
            return name, name
        case "id":  # the message quotes it
            return "", "id"
        case "pages" if query is not None and query.documents[error.document_index].name == "id":  # the path's document
            return "pages", "pages"
        case "pages":
            return f"{document}.pages", "pages"
        case _:
            return document if error.page is None else f"{document}, page {error.page}", None


def _error_type(status: int) -> str:
    named = {401: "authentication_error", 429: "rate_limit_error"}
    return named.get(status, "invalid_request_error" if status < 500 else "server_error")
