"""The tree of errors, the table of statuses, and the one body."""

import orjson
import pytest

from service import errors
from service.errors import ServiceError, UnusableDocumentError
from service.http.error_responses import error_response

EVERY_CODE = [
    (kind, code) for kind in ServiceError.__subclasses__() for code in sorted(kind.codes)
]  # fmt: skip


def test_every_class_has_a_status() -> None:
    assert all(400 <= kind.status < 600 for kind in ServiceError.__subclasses__())


def test_the_module_draws_its_tree() -> None:
    assert all(f"{kind.__name__:<28} {kind.status}" in (errors.__doc__ or "") for kind in ServiceError.__subclasses__())


def test_no_code_belongs_to_two_classes() -> None:
    codes = [code for _, code in EVERY_CODE]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize(("kind", "code"), EVERY_CODE, ids=lambda value: value if isinstance(value, str) else "")
def test_every_error_has_the_one_body(kind: type[ServiceError], code: str) -> None:
    response = error_response(kind(code, "what is wrong", document_index=3, page=2, param="field"), "request-7")
    body = orjson.loads(response.body)
    assert set(body) == {
        "id", "message", "detail", "error", "type", "title", "status", "code", "document_index", "page", "request_id"
    }  # fmt: skip
    assert body["status"] == response.status_code == kind.status
    assert body["message"] == body["error"]["message"] == "what is wrong"
    assert body["code"] == body["error"]["code"] == code
    assert body["id"] == body["request_id"] == "request-7"
    assert response.headers["content-type"] == "application/json"
    assert ("retry-after" in response.headers) == (response.status_code in (429, 503))


def test_detail_is_a_list_for_422_alone() -> None:
    body = orjson.loads(error_response(UnusableDocumentError("no_pages", "none", document_index=1), "r").body)
    assert body["detail"] == [{"loc": ["body", "documents", 1], "msg": "documents[1]: none", "type": "no_pages"}]


def test_a_code_outside_the_closed_list_is_our_bug() -> None:
    with pytest.raises(AssertionError):
        UnusableDocumentError("something_new", "…")


def test_a_place_is_added_in_a_copy() -> None:
    error = UnusableDocumentError("page_unreadable", "The page cannot be read.", page=2, field="content")
    placed = error.at(document_index=4)
    assert (type(placed), placed.document_index, placed.page, placed.field) == (UnusableDocumentError, 4, 2, "content")
    assert error.document_index is None
