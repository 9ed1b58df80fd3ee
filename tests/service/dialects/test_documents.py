"""Every form in which a client sends one document, brought into the one form, or refused with the reason."""

import base64
import json
from typing import Any

import pytest

from service.dialects.documents import ReadForm, read_form_of

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()
JPEG = base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(40)).decode()
WEBP = base64.b64encode(b"RIFF\x24\0\0\0WEBP" + bytes(40)).decode()
GIF = base64.b64encode(b"GIF89a" + bytes(40)).decode()
TIFFS = [base64.b64encode(beginning + bytes(40)).decode() for beginning in (b"II*\0", b"MM\0*")]
PDF = base64.b64encode(b"%PDF-1.7\n" + bytes(40)).decode()
IMAGE_URI, PDF_URI = f"data:image/png;base64,{PNG}", f"data:application/pdf;base64,{PDF}"


@pytest.mark.parametrize(
    ("sent", "fields"),
    [
        ("ziprerank://annual-report", {"id": "annual-report"}),
        ("ziprerank://annual-report#page=3", {"id": "annual-report#page=3"}),
        (IMAGE_URI, {"image": IMAGE_URI}),
        (IMAGE_URI.replace("data:image", "DATA:IMAGE"), {"image": IMAGE_URI.replace("data:image", "DATA:IMAGE")}),
        (PDF_URI, {"pdf": PDF_URI}),
        (f"{PDF_URI}#page=3", {"pdf": PDF_URI, "pages": "3"}),
        (f"{PDF_URI}#pages=1-3,7", {"pdf": PDF_URI, "pages": "1-3,7"}),
        *((data, {"image": data}) for data in (PNG, JPEG, WEBP, GIF, *TIFFS)),
        (PDF, {"pdf": PDF}),
        (json.dumps({"image": IMAGE_URI, "id": "x"}), {"image": IMAGE_URI, "id": "x"}),
        (json.dumps({"pdf": PDF, "pages": "2"}), {"pdf": PDF, "pages": "2"}),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_string_is_one_document_with_one_result(sent: str, fields: dict[str, Any]) -> None:
    assert read_form_of(sent) == ReadForm(fields=fields, is_string=True)


@pytest.mark.parametrize(
    ("sent", "fields"),
    [
        ({"image": PNG, "id": "x"}, {"image": PNG, "id": "x"}),
        ({"pdf": PDF, "pages": "1-2", "more": 1}, {"pdf": PDF, "pages": "1-2", "more": 1}),
        ({"id": "report"}, {"id": "report"}),
        ({"image": PNG, "text": ""}, {"image": PNG}),
        ({"image_url": {"url": IMAGE_URI}}, {"image": IMAGE_URI}),
        ({"image_url": IMAGE_URI, "pages": "1"}, {"image": IMAGE_URI, "pages": "1"}),
        ({"url": PDF_URI}, {"pdf": PDF_URI}),
        ({"content": [{"type": "image_url", "image_url": {"url": IMAGE_URI}}]}, {"image": IMAGE_URI}),
        ({"content": [{"type": "file", "file": {"file_data": PDF_URI}}]}, {"pdf": PDF_URI}),
        ([{"type": "image_url", "image_url": {"url": IMAGE_URI}}], {"image": IMAGE_URI}),
        ({"type": "image", "format": "base64", "value": IMAGE_URI}, {"image": IMAGE_URI}),
    ],
    ids=lambda value: json.dumps(value)[:50],
)
def test_an_object_is_its_one_page_or_file(sent: Any, fields: dict[str, Any]) -> None:
    assert read_form_of(sent) == ReadForm(fields=fields)


@pytest.mark.parametrize(
    "sent",
    [
        {"image": PNG, "text": "a caption"},
        {"content": [{"type": "text", "text": "a caption"}, {"type": "image_url", "image_url": {"url": IMAGE_URI}}]},
    ],
)
def test_a_text_beside_a_page_is_noted(sent: Any) -> None:
    form = read_form_of(sent)
    assert form.fields["image"] in (PNG, IMAGE_URI) and form.notes == ("a text beside a page was not looked at",)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ("what is a lock", "plain text cannot be ranked"),
        ("", "plain text cannot be ranked"),
        ("iVBORw0KGgo", "plain text cannot be ranked"),  # the beginning alone is a word
        ('{"image": "a picture of a lock"}', "plain text cannot be ranked"),
        ("{" * 100_000, "plain text cannot be ranked"),
        ({"text": "what is a lock"}, "plain text cannot be ranked"),
        ({"content": "what is a lock"}, "plain text cannot be ranked"),
        ({"content": [{"type": "text", "text": "a"}]}, "plain text cannot be ranked"),
        ({"type": "text", "value": "a"}, "plain text cannot be ranked"),
        ("https://example.org/a.png", "URLs are not fetched"),
        ({"image_url": {"url": "https://example.org/a.png"}}, "URLs are not fetched"),
        ({"content": [{"image_url": IMAGE_URI}, {"image_url": IMAGE_URI}]}, "2 images"),
        ({"content": ["a"]}, "each part of content is an object"),
        ({"image_url": 7}, "a data URI or base64"),
        (7, "send an object"),
        (None, "send an object"),
    ],
    ids=lambda value: json.dumps(value)[:50],
)
def test_anything_else_is_refused_with_its_reason(sent: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_form_of(sent)
