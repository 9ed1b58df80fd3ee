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
        (f"data:application/octet-stream;base64,{PDF}", {"pdf": f"data:application/octet-stream;base64,{PDF}"}),
        (f"data:;base64,{PNG}", {"image": f"data:;base64,{PNG}"}),
        *(
            (head + PDF, {"pdf": head + PDF})
            for head in (
                "DATA:Application/PDF;Base64,",
                f"data:application/octet-stream;name={'a' * 3000}.pdf;charset=utf-8;base64, ",
                "data:a/b; BASE64 ,\r\n",
            )
        ),
        ("data:video/mp4;base64,AAAA", {"image": "data:video/mp4;base64,AAAA"}),  # which is refused, and never a text
        (f"{PNG[:38]}\n{PNG[38:]}", {"image": f"{PNG[:38]}\n{PNG[38:]}"}),
        (json.dumps({"image": IMAGE_URI, "id": "x"}), {"image": IMAGE_URI, "id": "x"}),
        (json.dumps({"pdf": PDF, "pages": "2"}), {"pdf": PDF, "pages": "2"}),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_string_is_one_document_with_one_result(sent: str, fields: dict[str, Any]) -> None:
    assert read_form_of(sent) == ReadForm(fields=fields, is_string=True)


@pytest.mark.parametrize("rest", ['"a": "\\ud800"', '"\\udfff": 1', '"a": NaN', f'"a": {"[" * 300}{"]" * 300}'])
def test_json_in_a_string_is_held_to_the_rules_of_a_body(rest: str) -> None:
    """Half a surrogate pair, no number, nesting without end: an answer could not repeat them."""
    text = f'{{"image": "{PNG}", {rest}}}'
    assert read_form_of(text) == ReadForm(fields={"text": text}, is_string=True)


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
        ({"type": "multimodal", "text": "", "images": [IMAGE_URI], "id": "x"}, {"image": IMAGE_URI, "id": "x"}),
    ],
    ids=lambda value: json.dumps(value)[:50],
)
def test_an_object_is_its_one_page_or_file(sent: Any, fields: dict[str, Any]) -> None:
    assert read_form_of(sent) == ReadForm(fields=fields)


@pytest.mark.parametrize(
    "text",
    [
        "what is a lock",
        "",
        "iVBORw0KGgo",  # the beginning alone is a word
        "/9j/ is how a photograph begins, and this is no photograph",
        '{"image": "a picture of a lock"}',
        "{" * 100_000,
        "see https://example.org/a.png",
        "data:text/plain,lock",
        "data: the base64, and what else a lock is;base64 or not",
    ],
    ids=lambda text: text[:20],
)
def test_any_other_string_is_a_text(text: str) -> None:
    assert read_form_of(text) == ReadForm(fields={"text": text}, is_string=True)
    for sent in ({"text": text}, {"content": text}, {"content": [{"type": "text", "text": text}]}, [{"text": text}]):
        assert read_form_of(sent) == ReadForm(fields={"text": text})
    assert read_form_of({"type": "text", "value": text}) == ReadForm(fields={"text": text})


@pytest.mark.parametrize(
    ("sent", "fields"),
    [
        ({"text": "ziprerank://report#page=2"}, {"id": "report#page=2"}),
        ({"text": PDF_URI}, {"pdf": PDF_URI}),
        ({"image": "ziprerank://report#page=2"}, {"id": "report#page=2"}),
        ({"image": "https://example.org/a.png"}, {"url": "https://example.org/a.png"}),
        (
            {"image_url": {"url": "https://example.org/a.png"}, "id": "x"},
            {"url": "https://example.org/a.png", "id": "x"},
        ),
        ({"url": "https://example.org/a.pdf#page=3"}, {"url": "https://example.org/a.pdf", "pages": "3"}),
        ({"text": "a lock", "id": "x"}, {"text": "a lock", "id": "x"}),
        ({"text": "a lock", "images": []}, {"text": "a lock"}),
        ({"content": [{"type": "text", "text": "a"}, "b"]}, {"text": "a\nb"}),
    ],
    ids=lambda value: json.dumps(value)[:50],
)
def test_the_value_of_a_field_may_be_a_reference_media_or_a_url(sent: Any, fields: dict[str, Any]) -> None:
    assert read_form_of(sent) == ReadForm(fields=fields)


def test_a_string_that_is_a_url_and_nothing_else_is_a_url() -> None:
    for sent in ("https://example.org/a.png", " HTTP://example.org/a.png\n"):
        assert read_form_of(sent) == ReadForm(fields={"url": sent.strip()}, is_string=True)


@pytest.mark.parametrize(
    "sent",
    [
        {"image": PNG, "text": "a caption"},
        {"type": "multimodal", "text": "a caption", "images": [IMAGE_URI]},
        {"content": [{"type": "text", "text": "a caption"}, {"type": "image_url", "image_url": {"url": IMAGE_URI}}]},
    ],
)
def test_a_text_beside_a_page_is_noted(sent: Any) -> None:
    form = read_form_of(sent)
    assert form.fields["image"] in (PNG, IMAGE_URI) and form.notes == ("a text beside a page was not looked at",)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ({"content": [{"image_url": IMAGE_URI}, {"image_url": IMAGE_URI}]}, "2 images"),
        ({"text": "a caption", "images": [PNG, PNG]}, "2 images"),
        ({"content": ["a", 7]}, "send a string, or an object"),
        ({"image_url": 7}, "a data URI, base64"),
        ({"image_url": {"url": "a picture of a lock"}}, "a data URI, base64"),
        (7, "send a string, or an object"),
        (None, "send a string, or an object"),
    ],
    ids=lambda value: json.dumps(value)[:50],
)
def test_anything_else_is_refused_with_its_reason(sent: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_form_of(sent)
