"""When each error code is sent and what a client can do about it: the table behind docs/errors.md.

A code is declared by its class in `errors`; the table has an entry for each, and for those of the web framework.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Retry = Literal["no", "same", "other"]
"""Whether the same request may succeed when it is sent again. same: to this replica or another, after the time of `Retry-After`
where there is one; other: rather to another replica."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    when: str
    retry: Retry


FRAMEWORK_CODES: Mapping[str, int] = {"not_found": 404, "method_not_allowed": 405}
"""Codes of errors that the web framework finds, with their statuses."""

MEANINGS: Mapping[str, Meaning] = {
    "malformed_body": Meaning(
        when="The body is no JSON, has another encoding than it says, names a member twice, or was cut off.",
        retry="no",
    ),
    "malformed_multipart": Meaning(
        when="The form cannot be taken apart: no boundary, a part without a name, an end that is missing.",
        retry="no",
    ),
    "invalid_request": Meaning(
        when="A field is missing, has the wrong type or is out of its range, an option in the group `ziprerank` is unknown, or "
        "the request is not HTTP/1.1.",
        retry="no",
    ),
    "page_out_of_range": Meaning(
        when="A page selection names a page that the document does not have.",
        retry="no",
    ),
    "unauthorized": Meaning(
        when="The API key is missing or wrong.",
        retry="no",
    ),
    "not_found": Meaning(when="No route has this path.", retry="no"),
    "document_not_found": Meaning(
        when="No registered document has this id, or another caller's key registered it and `CACHE_SCOPE` is `per_key`.",
        retry="no",
    ),
    "method_not_allowed": Meaning(when="The route does not take this method.", retry="no"),
    "request_timeout": Meaning(
        when="The head or the body did not arrive in time: a long pause, too slow, or the slowest of many. The "
        "connection is closed.",
        retry="same",
    ),
    "head_too_large": Meaning(
        when="The request's target and headers have more bytes than `MAX_HEADER_BYTES`, or there are more than `MAX_HEADERS`.",
        retry="no",
    ),
    "body_too_large": Meaning(
        when="The request is larger than `MAX_BODY_BYTES`.",
        retry="no",
    ),
    "file_too_large": Meaning(
        when="One document is larger than `MAX_FILE_BYTES`, after base64 is decoded or a URL is fetched.",
        retry="no",
    ),
    "too_many_files": Meaning(
        when="The request uploads more documents than `MAX_FILES`.",
        retry="no",
    ),
    "too_many_pages": Meaning(
        when="The request, or a document to register, has more pages than its limit (`MAX_PAGES`, `MAX_DOCUMENT_PAGES`), "
        "or one image or text fills too many.",
        retry="no",
    ),
    "too_many_values": Meaning(
        when="A JSON body has more values than are read, or too much text that is not ASCII.",
        retry="no",
    ),
    "image_too_many_pixels": Meaning(
        when="An image has more pixels than `MAX_IMAGE_PIXELS`, or a very long edge.",
        retry="no",
    ),
    "unsupported_media_type": Meaning(
        when="The content type, the content encoding or the kind of a document is outside the list.",
        retry="no",
    ),
    "encrypted_document": Meaning(
        when="A PDF needs a password.",
        retry="no",
    ),
    "unsupported_document": Meaning(
        when="A PDF whose pages do not show its content: an XFA form, the cover of a portfolio.",
        retry="no",
    ),
    "corrupt_document": Meaning(
        when="A PDF cannot be opened, or a document is empty.",
        retry="no",
    ),
    "no_pages": Meaning(
        when="A PDF opens and has no pages, mostly because it was cut off.",
        retry="no",
    ),
    "page_unreadable": Meaning(
        when="One page of a PDF cannot be read.",
        retry="no",
    ),
    "bad_page_box": Meaning(
        when="A page or an image is empty or far longer than it is wide.",
        retry="no",
    ),
    "page_degraded": Meaning(
        when="Content of a page was lost while it was drawn, and `ON_DEGRADED_PAGE` has such pages refused.",
        retry="no",
    ),
    "page_timeout": Meaning(
        when="Opening a document or drawing a page took longer than its limit.",
        retry="no",
    ),
    "page_memory": Meaning(
        when="Drawing a page needs more memory than a raster worker may have.",
        retry="no",
    ),
    "page_crashed": Meaning(
        when="A document crashed the process that draws it. One that did so twice is refused at once for ten minutes.",
        retry="no",
    ),
    "corrupt_image": Meaning(
        when="An image cannot be decoded.",
        retry="no",
    ),
    "invalid_base64": Meaning(
        when="The base64 of a document has characters that do not belong there, or a length that cannot be.",
        retry="no",
    ),
    "url_not_supported": Meaning(
        when="A document is given by a URL, and `URL_FETCH` is off (the default), or the URL is not of a kind that is fetched.",
        retry="no",
    ),
    "url_refused": Meaning(
        when="The host of a URL is not in the list of `URL_FETCH`, or it redirects to one that is not.",
        retry="no",
    ),
    "url_unreachable": Meaning(
        when="A document could not be fetched: no public address, no connection, a wrong certificate, no status 200.",
        retry="same",
    ),
    "url_timeout": Meaning(
        when="A host sent nothing for too long, or the documents of the request took longer than `URL_FETCH_SECONDS`.",
        retry="same",
    ),
    "empty_text": Meaning(
        when="A text has only spaces and characters that nobody sees.",
        retry="no",
    ),
    "overloaded": Meaning(
        when="A queue or a limit of work at once is full: requests, bytes, tokens, raster work, documents to process, URLs.",
        retry="same",
    ),
    "time_too_short": Meaning(
        when="The request would take longer than the time that it names (`timeout_ms`, `X-Request-Timeout-Ms`), even with less "
        "work; or with all of its work, where `on_deadline` is `fail`. The message has the time that it needs, which depends "
        "on the load.",
        retry="same",
    ),
    "internal_error": Meaning(
        when="A fault of the service. Its details are in the log under the request's id, and never in an answer.",
        retry="same",
    ),
    "score_invalid": Meaning(
        when="The model gave a score that is no finite number for this request. Others of its batch are not affected.",
        retry="same",
    ),
    "document_damaged": Meaning(
        when="The stored form of a registered document is damaged.",
        retry="no",
    ),
    "not_ready": Meaning(
        when="The model is still loading, raster workers do not start, or a batch has been on the device for longer than "
        "`STALL_SECONDS`.",
        retry="other",
    ),
    "too_many_connections": Meaning(
        when="`MAX_CONNECTIONS` are open, and none of them is idle. The connection is closed.",
        retry="same",
    ),
    "draining": Meaning(
        when="The process was told to stop: requests in flight are finished, new ones are refused. The connection is closed.",
        retry="other",
    ),
    "queue_timeout": Meaning(
        when="The request waited longer than `QUEUE_SECONDS` for the device.",
        retry="same",
    ),
    "gpu_out_of_memory": Meaning(
        when="The request does not fit into the device's memory even alone.",
        retry="same",
    ),
    "gpu_failed": Meaning(
        when="The device was lost. The process ends with exit code 70 and is to be restarted by its supervisor.",
        retry="other",
    ),
    "store_unavailable": Meaning(
        when="The store of registered documents cannot be reached or read.",
        retry="same",
    ),
    "deadline_exceeded": Meaning(
        when="The request took longer than `REQUEST_SECONDS`.",
        retry="same",
    ),
}
