"""The one document in the body of `PUT /documents/{id}`: the body itself, or a multipart form with one file."""

from collections.abc import Sequence

from service.dialects.multipart import parse_multipart
from service.errors import InvalidRequestError

MULTIPART = "multipart/form-data"
DOCUMENT_MEDIA_TYPES = ("application/pdf", "application/octet-stream", "image/*", MULTIPART)


def parse_document_body(body: Sequence[bytes], content_type: str, is_form: bool) -> bytes | bytearray:
    """The document's bytes. Takes tens of milliseconds for a large body. Raises: MalformedBodyError, InvalidRequestError."""
    if not is_form:
        return b"".join(body)
    parts = parse_multipart(body, content_type)
    if len(parts) != 1 or not parts[0].is_file:
        message = f"{len(parts)} parts were sent; a document is put as one file part and nothing else."
        raise InvalidRequestError("invalid_request", message, param="file")
    if parts[0].name != "file":
        message = "A file part has another name than 'file'; rename it."
        raise InvalidRequestError("invalid_request", message, param="file")
    return parts[0].data
