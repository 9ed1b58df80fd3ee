"""What a client can be told went wrong, and the one table that turns it into an HTTP status.

    ServiceError
    ├── MalformedBodyError           400  body: JSON syntax, encoding, multipart framing
    ├── InvalidRequestError          400  schema: a field's type or range
    ├── PageOutOfRangeError          400  rasterizer: a page number that the document does not have
    ├── UnauthorizedError            401  access
    ├── DocumentNotFoundError        404  document_registry: no registered document has this id
    ├── RequestTimeoutError          408  body: not received in time
    ├── TooLargeError                413  body, page_loader, rasterizer: a limit of size or number
    ├── UnsupportedMediaTypeError    415  body, page_loader: a content type or file kind outside the list
    ├── UnusableDocumentError        422  page_loader, rasterizer: recognised, but cannot be turned into pages
    ├── OverloadedError              429  access, rasterizer, micro_batcher, document_processor: a queue is full
    ├── InternalError                500  routes, inference_worker, document_store: our fault, told without details
    ├── UnavailableError             503  routes, rasterizer, inference_worker, document_files: not ready, draining, trouble
    └── DeadlineExceededError        504  routes: admitted, but not finished in time

Messages are ours, never a library's: such texts carry memory addresses and pieces of documents.
"""


class ServiceError(Exception):
    """An answer to the client. `code` is from the closed list of the class, `message` names value, limit and remedy."""

    codes: frozenset[str] = frozenset()

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        document_index: int | None = None,
        page: int | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        assert code in self.codes, f"{code} is not a code of {type(self).__name__}"
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.document_index = document_index
        self.page = page
        self.retry_after_seconds = retry_after_seconds


class MalformedBodyError(ServiceError):
    codes = frozenset({"malformed_body", "malformed_multipart"})


class InvalidRequestError(ServiceError):
    codes = frozenset({"invalid_request"})


class PageOutOfRangeError(ServiceError):
    codes = frozenset({"page_out_of_range"})


class UnauthorizedError(ServiceError):
    codes = frozenset({"unauthorized"})


class DocumentNotFoundError(ServiceError):
    codes = frozenset({"document_not_found"})


class RequestTimeoutError(ServiceError):
    codes = frozenset({"request_timeout"})


class TooLargeError(ServiceError):
    codes = frozenset({"body_too_large", "file_too_large", "too_many_files", "too_many_pages", "image_too_many_pixels"})


class UnsupportedMediaTypeError(ServiceError):
    codes = frozenset({"unsupported_media_type"})


class UnusableDocumentError(ServiceError):
    codes = frozenset(
        {
            "encrypted_document",
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
        }
    )


class OverloadedError(ServiceError):
    codes = frozenset({"overloaded"})


class InternalError(ServiceError):
    codes = frozenset({"internal_error", "score_invalid", "document_damaged"})


class UnavailableError(ServiceError):
    codes = frozenset(
        {"not_ready", "draining", "queue_timeout", "gpu_out_of_memory", "gpu_failed", "store_unavailable"}
    )


class DeadlineExceededError(ServiceError):
    codes = frozenset({"deadline_exceeded"})


STATUS: dict[type[ServiceError], int] = {
    MalformedBodyError: 400,
    InvalidRequestError: 400,
    PageOutOfRangeError: 400,
    UnauthorizedError: 401,
    DocumentNotFoundError: 404,
    RequestTimeoutError: 408,
    TooLargeError: 413,
    UnsupportedMediaTypeError: 415,
    UnusableDocumentError: 422,
    OverloadedError: 429,
    InternalError: 500,
    UnavailableError: 503,
    DeadlineExceededError: 504,
}


def status_of(error: ServiceError) -> int:
    """HTTP status of `error`."""
    return STATUS[type(error)]
