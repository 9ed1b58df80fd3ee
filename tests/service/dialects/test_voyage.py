"""Errors in Voyage's format."""

from service.dialects.voyage import VoyageDialect
from service.errors import UnusableDocumentError


def test_the_detail_of_an_unusable_document_is_a_text_which_voyages_client_prints() -> None:
    error = UnusableDocumentError("corrupt_image", "the image is empty.", document_index=1)
    body = VoyageDialect().error(error, request_id="r", query=None)
    assert body["status"] == 422
    assert body["detail"] == body["message"] == "documents[1]: the image is empty."
