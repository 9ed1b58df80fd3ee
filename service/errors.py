"""Everything that can go wrong with a request, each kind with its HTTP status.

    ServiceError
    ├── MalformedBodyError           400  JSON syntax, encoding, multipart framing
    ├── InvalidRequestError          400  a field's type or range
    ├── PageOutOfRangeError          400  a page number that the document does not have
    ├── UnauthorizedError            401  the API key
    ├── DocumentNotFoundError        404  no registered document has this id
    ├── RequestTimeoutError          408  the head or the body did not arrive in time
    ├── TooLargeError                413  a limit of size or number
    ├── UnsupportedMediaTypeError    415  a content type or file kind outside the list
    ├── UnusableDocumentError        422  recognised, but cannot be turned into pages
    ├── OverloadedError              429  a queue is full, or the request names less time than it needs
    ├── HeadTooLargeError            431  size or number of the headers
    ├── InternalError                500  a fault of the service, reported without details
    ├── UnavailableError             503  not ready, draining, or a part of the service is out of order
    └── DeadlineExceededError        504  admitted, but not finished in time

An error carries its place as fields: document, page, and field by the names of `RerankQuery`. The message leaves the place out,
because each wire format names documents differently; the dialect that answers the request adds it. Messages are written here
in the service, never by a library: libraries' texts carry memory addresses and pieces of documents.
"""

from typing import Literal, Self

Field = Literal["query", "options", "documents", "content", "pages", "id"]
"""The part of a query that an error is about; content, pages and id are those of one document."""


class ServiceError(Exception):
    """A failed request. `code` is from the closed list of the class; `message` gives the value, the limit and the remedy.

    field, document_index, page: the place, as far as it is known. Documents count from 0, pages from 1.
    param: the name of a header or field in the client's own format; set by the code that reads that format.
    """

    status: int
    codes: frozenset[str] = frozenset()

    def __init__(
        self,
        code: str,
        message: str,
        *,
        field: Field | None = None,
        document_index: int | None = None,
        page: int | None = None,
        param: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        assert code in self.codes, f"{code} is not a code of {type(self).__name__}"
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.document_index = document_index
        self.page = page
        self.param = param
        self.retry_after_seconds = retry_after_seconds

    def at(self, *, document_index: int | None = None, page: int | None = None, field: Field | None = None) -> Self:
        """The same error with a place that its source could not know. The original is left as it is."""
        return type(self)(
            self.code,
            self.message,
            field=self.field if field is None else field,
            document_index=self.document_index if document_index is None else document_index,
            page=self.page if page is None else page,
            param=self.param,
            retry_after_seconds=self.retry_after_seconds,
        )


class MalformedBodyError(ServiceError):
    status = 400
    codes = frozenset({"malformed_body", "malformed_multipart"})


class InvalidRequestError(ServiceError):
    status = 400
    codes = frozenset({"invalid_request"})


class PageOutOfRangeError(ServiceError):
    status = 400
    codes = frozenset({"page_out_of_range"})


class UnauthorizedError(ServiceError):
    status = 401
    codes = frozenset({"unauthorized"})


class DocumentNotFoundError(ServiceError):
    status = 404
    codes = frozenset({"document_not_found"})


class RequestTimeoutError(ServiceError):
    status = 408
    codes = frozenset({"request_timeout"})


class TooLargeError(ServiceError):
    status = 413
    codes = frozenset(
        {
            "body_too_large",
            "file_too_large",
            "too_many_files",
            "too_many_pages",
            "too_many_values",
            "image_too_many_pixels",
        }
    )


class UnsupportedMediaTypeError(ServiceError):
    status = 415
    codes = frozenset({"unsupported_media_type"})


class UnusableDocumentError(ServiceError):
    status = 422
    codes = frozenset(
        {
            "encrypted_document",
            "unsupported_document",
            "corrupt_document",
            "no_pages",
            "page_unreadable",
            "bad_page_box",
            "page_degraded",
            "page_timeout",
            "page_memory",
            "page_crashed",
            "corrupt_image",
            "invalid_base64",
            "url_not_supported",
            "url_refused",
            "url_unreachable",
            "url_timeout",
            "empty_text",
        }
    )


class OverloadedError(ServiceError):
    status = 429
    codes = frozenset({"overloaded", "time_too_short"})


class HeadTooLargeError(ServiceError):
    status = 431
    codes = frozenset({"head_too_large"})


class InternalError(ServiceError):
    status = 500
    codes = frozenset({"internal_error", "score_invalid", "document_damaged"})


class UnavailableError(ServiceError):
    status = 503
    codes = frozenset(
        {
            "not_ready",
            "draining",
            "too_many_connections",
            "queue_timeout",
            "gpu_out_of_memory",
            "gpu_failed",
            "store_unavailable",
        }
    )


class DeadlineExceededError(ServiceError):
    status = 504
    codes = frozenset({"deadline_exceeded"})


DOCUMENT_CODES = frozenset(
    {
        *UnusableDocumentError.codes,
        *PageOutOfRangeError.codes,
        *DocumentNotFoundError.codes,
        *UnsupportedMediaTypeError.codes,
        "file_too_large",
        "too_many_pages",
        "image_too_many_pixels",
        "document_damaged",
    }
)
"""Codes of errors that can be about one document, without which the query's others can be ranked."""


def is_of_document(error: ServiceError) -> bool:
    """Whether the error is about one document of a query or a page of it, and not about the query or the service."""
    return error.document_index is not None and error.code in DOCUMENT_CODES
