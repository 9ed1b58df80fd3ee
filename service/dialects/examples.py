"""Bodies for the API description: every form of a document, in small files that can be sent as they are."""

import json
from collections.abc import Mapping
from typing import Any

PNG_BASE64 = (
    "iVBORw0KGgoAAAANSUhEUgAAADgAAAA4AgMAAADV6NONAAAACVBMVEX///9aWloeHh49oTamAAAAiUlEQVR42u2QsREDIQwEF5FoXAXhz1CP+/km"
    "voRPXAVVuAk34eAQ8JkTO7KS044OdCP4du0S61Iu6C7NkjPVNqcGZTE7+IIlGr09gNpiegPYhrmMLodXbptRSm97Iu/mU5hqw4Y3tnugL2n1T441"
    "WmWKpNqw6QUj8Vgu9kxwH/Rqdj3oHz/Hn9Ubd9sNrmpJpwIAAAAASUVORK5CYII="
)
"""A house, 56 × 56 px."""

PDF_BASE64 = (
    "JVBERi0xLjQKMSAwIG9iajw8L1R5cGUvQ2F0YWxvZy9QYWdlcyAyIDAgUj4+IGVuZG9iagoyIDAgb2JqPDwvVHlwZS9QYWdlcy9LaWRzWzMgMCBS"
    "IDUgMCBSXS9Db3VudCAyL01lZGlhQm94WzAgMCA5MCA5MF0+PiBlbmRvYmoKMyAwIG9iajw8L1R5cGUvUGFnZS9QYXJlbnQgMiAwIFIvQ29udGVu"
    "dHMgNCAwIFIvUmVzb3VyY2VzPDwvRm9udDw8L0YgNyAwIFI+Pj4+Pj4gZW5kb2JqCjQgMCBvYmo8PC9MZW5ndGggMzc+PnN0cmVhbQpCVC9GIDEy"
    "IFRmIDggNDAgVGQoUmV2ZW51ZSAyMDI2KVRqIEVUCmVuZHN0cmVhbSBlbmRvYmoKNSAwIG9iajw8L1R5cGUvUGFnZS9QYXJlbnQgMiAwIFIvQ29u"
    "dGVudHMgNiAwIFIvUmVzb3VyY2VzPDwvRm9udDw8L0YgNyAwIFI+Pj4+Pj4gZW5kb2JqCjYgMCBvYmo8PC9MZW5ndGggMzU+PnN0cmVhbQpCVC9G"
    "IDEyIFRmIDggNDAgVGQoU3RhZmYgMjAyNilUaiBFVAplbmRzdHJlYW0gZW5kb2JqCjcgMCBvYmo8PC9UeXBlL0ZvbnQvU3VidHlwZS9UeXBlMS9C"
    "YXNlRm9udC9IZWx2ZXRpY2E+PiBlbmRvYmoKeHJlZgowIDgKMDAwMDAwMDAwMCA2NTUzNSBmIAowMDAwMDAwMDA5IDAwMDAwIG4gCjAwMDAwMDAw"
    "NTMgMDAwMDAgbiAKMDAwMDAwMDEyOSAwMDAwMCBuIAowMDAwMDAwMjE3IDAwMDAwIG4gCjAwMDAwMDAzMDAgMDAwMDAgbiAKMDAwMDAwMDM4OCAw"
    "MDAwMCBuIAowMDAwMDAwNDY5IDAwMDAwIG4gCnRyYWlsZXI8PC9Sb290IDEgMCBSL1NpemUgOD4+CnN0YXJ0eHJlZgo1MzEKJSVFT0YK"
)
"""Two pages of two words each."""

PNG_URI = f"data:image/png;base64,{PNG_BASE64}"
PDF_URI = f"data:application/pdf;base64,{PDF_BASE64}"

REGISTERED_ID = "annual-report"
"""The registered document that examples name. It has two pages or more."""

URL_EXAMPLE = "url"
"""The example that a service which fetches no URLs refuses."""

_IMAGE_PART = {"type": "image_url", "image_url": {"url": PNG_URI}}
_TEXT_PART = {"type": "text", "text": "Revenue rose by 4 %."}
_BY_FORM: Mapping[str, Any] = {
    "text": ["Revenue rose by 4 %.", "The office has moved."],
    "registered_page": [f"ziprerank://{REGISTERED_ID}#page=1", f"ziprerank://{REGISTERED_ID}#page=2"],
    "registered_document": [f"ziprerank://{REGISTERED_ID}"],
    "data_uri": [PDF_URI, PNG_URI],
    "data_uri_with_pages": [f"{PDF_URI}#page=2", f"{PDF_URI}#pages=1-2"],
    "base64": [PDF_BASE64, PNG_BASE64],
    "json_in_a_string": [json.dumps({"image": PNG_URI})],
    "pdf_object": [{"pdf": PDF_BASE64, "pages": "1-2", "id": "report.pdf", "metadata": {"year": 2026}}],
    "image_object": [{"image": PNG_URI, "id": "house.png"}],
    "registered_object": [{"id": f"{REGISTERED_ID}#page=2"}, {"id": REGISTERED_ID, "pages": "1"}],
    "text_object": [{"text": "Revenue rose by 4 %.", "id": "note-7"}],
    "image_with_text": [{"image": PNG_URI, "text": "a caption, which the model does not read"}],
    "content_parts": [{"content": [_IMAGE_PART]}, {"content": [_TEXT_PART]}],
    "image_url_object": [{"image_url": {"url": PNG_URI}}, {"image_url": PDF_URI}],
    "list_of_parts": [[_IMAGE_PART], [_TEXT_PART]],
    "elastic_object": [
        {"type": "image", "format": "base64", "value": PNG_URI},
        {"type": "text", "format": "text", "value": "Revenue rose by 4 %."},
    ],
    "one_document": {"pdf": PDF_URI},
    "url_in_a_string": ["https://example.com/report.pdf"],
    URL_EXAMPLE: [{"url": "https://example.com/report.pdf"}],
    "mixed": ["Revenue rose by 4 %.", f"ziprerank://{REGISTERED_ID}", PNG_URI, {"pdf": PDF_URI, "pages": "2"}],
}
"""Lists of documents by their form."""

QUERY = "revenue of the year"

DOCUMENT_EXAMPLES: Mapping[str, Any] = {
    name: {"query": QUERY, "documents": documents} for name, documents in _BY_FORM.items()
}
"""Bodies of the service's own format, one for each form of a document."""
