"""The header that names the documents of which something was skipped, for formats whose answers have no place for errors."""

from collections.abc import Mapping, Sequence

from service.errors import ServiceError

SKIPPED_HEADER = "X-ZipRerank-Skipped"
SKIPPED_HEADER_DESCRIPTION = (
    "positions (from 0) of the documents of which all or some pages were skipped, such as `0,3`; absent: none. A list of over "
    "100 ends with `...`"
)

_MAX_POSITIONS = 100  # proxies bound the bytes of a response's headers, some to 4 KiB


def skipped_headers(skipped: Sequence[ServiceError]) -> Mapping[str, str]:
    """skipped: the errors of the documents and pages that were left out."""
    if not skipped:
        return {}
    positions = [str(index) for index in dict.fromkeys(error.document_index for error in skipped)]
    more = ["..."] if len(positions) > _MAX_POSITIONS else []
    return {SKIPPED_HEADER: ",".join(positions[:_MAX_POSITIONS] + more)}
