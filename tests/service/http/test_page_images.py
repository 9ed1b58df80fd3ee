"""Images of registered pages, and documents that are deleted after a time, as a client sees them."""

import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from model import Reranker
from service.raster.pool import PendingRaster, RasterDocument, Rasterizer
from tests.documents import make_image, make_pdf, make_raw_pdf, make_tiff
from tests.patience import eventually
from tests.servers import RunningService, fake_loader, running_service
from tests.service.http.requests import refused

TWO_PAGES = make_pdf(2, width=300, height=400)
WIDE_RED = make_raw_pdf(media_box="[0 0 800 400]", content=b"1 0 0 rg 0 0 400 400 re f")


@pytest.fixture(scope="module")
def service(reranker: Reranker) -> Iterator[RunningService]:
    with running_service(fake_loader(reranker)) as running:
        yield running


def put(service: RunningService, id: str, data: bytes, query: str = "", **headers: str) -> httpx.Response:
    answer = service.client.put(
        f"/documents/{id}{query}", content=data, headers={"content-type": "application/octet-stream", **headers}
    )
    assert answer.status_code == 202, answer.text
    return answer


def image_of(answer: httpx.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/jpeg"
    image = Image.open(io.BytesIO(answer.content))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    return image


# Images


@pytest.mark.parametrize("width", [160, 320, 800, 1600])
def test_a_page_is_drawn_at_the_width_that_is_asked_for(service: RunningService, width: int) -> None:
    put(service, "wide", WIDE_RED)
    image = image_of(service.client.get(f"/documents/wide/pages/1/image?width={width}"))
    assert image.size == (width, width // 2)
    pixels = np.asarray(image).astype(int)
    assert np.abs(pixels[:, : width // 2 - 8] - (254, 0, 0)).max() < 12, "the left half is red"
    assert pixels[:, width // 2 + 8 :].min() > 245, "the right half is white"


def test_without_a_width_and_under_v1_a_page_is_320_pixels_wide(service: RunningService) -> None:
    put(service, "report", TWO_PAGES)
    assert image_of(service.client.get("/v1/documents/report/pages/2/image")).width == 320


def test_each_page_is_drawn_by_its_number(service: RunningService) -> None:
    put(service, "scan", make_tiff([(400, 200), (200, 400)]))
    sizes = [image_of(service.client.get(f"/documents/scan/pages/{page}/image?width=160")).size for page in (1, 2)]
    assert sizes == [(160, 80), (160, 320)]


def test_an_image_without_page_number_is_page_1_and_is_not_enlarged(service: RunningService) -> None:
    put(service, "photo", make_image(40, 30, colour="blue"))
    assert image_of(service.client.get("/documents/photo/pages/1/image?width=800")).size == (40, 30)
    refused(service.client.get("/documents/photo/pages/2/image"), 400, "page_out_of_range", "1 page")


def test_a_client_that_has_the_image_is_told_so(service: RunningService) -> None:
    put(service, "tagged", TWO_PAGES)
    path = "/documents/tagged/pages/1/image?width=160"
    first = service.client.get(path)
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "private, no-cache"
    for sent in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = service.client.get(path, headers={"if-none-match": sent})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag), sent
    assert service.client.get(path, headers={"if-none-match": '"other"'}).status_code == 200
    others = [service.client.get(f"/documents/tagged/pages/{page}/image?width={width}").headers["etag"]
              for page, width in ((2, 160), (1, 320))]  # fmt: skip
    put(service, "tagged", WIDE_RED)
    replaced = service.client.get(path, headers={"if-none-match": tag})
    assert replaced.status_code == 200
    assert len({tag, *others, replaced.headers["etag"]}) == 4


def test_head_is_answered_as_get_without_the_image(service: RunningService) -> None:
    put(service, "report", TWO_PAGES)
    answer = service.client.head("/documents/report/pages/1/image")
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"", "image/jpeg")


@pytest.mark.parametrize("query", ["width=161", "width=abc", "width=", "width=320.0", "width=-160"])
def test_other_widths_are_refused(service: RunningService, query: str) -> None:
    put(service, "report", TWO_PAGES)
    refused(service.client.get(f"/documents/report/pages/1/image?{query}"), 400, "invalid_request", "width")


@pytest.mark.parametrize("page", ["0", "-1", "x", "1.0", "01", "9999999999", "%31%0A"])
def test_what_is_no_page_number_is_refused(service: RunningService, page: str) -> None:
    put(service, "report", TWO_PAGES)
    answer = service.client.get(f"/documents/report/pages/{page}/image")
    assert answer.status_code in (400, 404)
    assert answer.json()["code"] in ("invalid_request", "not_found")


def test_a_page_that_does_not_exist_is_refused(service: RunningService) -> None:
    put(service, "report", TWO_PAGES)
    refused(service.client.get("/documents/report/pages/3/image"), 400, "page_out_of_range", "page 3", "2 page(s)")
    refused(service.client.get("/documents/nowhere/pages/1/image"), 404, "document_not_found")
    refused(service.client.get("/documents/no%20id/pages/1/image"), 400, "invalid_request", "id")


def test_with_a_scope_per_key_a_page_is_shown_to_its_owner_alone(reranker: Reranker) -> None:
    with running_service(fake_loader(reranker), cache_scope="per_key") as service:
        put(service, "secret", TWO_PAGES, authorization="Bearer one")
        path = "/documents/secret/pages/1/image"
        tag = service.client.get(path, headers={"authorization": "Bearer one"}).headers["etag"]
        for headers in ({}, {"if-none-match": tag}):
            stranger = service.client.get(path, headers={"authorization": "Bearer two", **headers})
            refused(stranger, 404, "document_not_found")


# Time to live


def test_a_document_with_a_time_to_live_says_when_it_ends(service: RunningService) -> None:
    before = int(time.time())
    body = put(service, "short", TWO_PAGES, "?ttl_seconds=3600").json()
    assert before + 3600 <= body["expires"] == body["created"] + 3600
    assert service.client.get("/documents/short").json()["expires"] == body["expires"]
    assert "expires" not in put(service, "short", TWO_PAGES).json()
    assert "expires" not in service.client.get("/documents/short").json()


@pytest.mark.parametrize("query", ["ttl_seconds=0", "ttl_seconds=x", "ttl_seconds=31536001", "ttl_seconds=1.5"])
def test_a_time_to_live_out_of_range_is_refused(service: RunningService, query: str) -> None:
    answer = service.client.put(
        f"/documents/odd?{query}", content=TWO_PAGES, headers={"content-type": "application/pdf"}
    )
    refused(answer, 400, "invalid_request", "ttl_seconds")
    assert service.client.get("/documents/odd").status_code == 404


def test_after_its_time_a_document_is_gone_from_answers_and_from_the_disk(reranker: Reranker, tmp_path: Path) -> None:
    with running_service(fake_loader(reranker), document_store=str(tmp_path)) as service:
        put(service, "kept", TWO_PAGES)
        put(service, "replaced", TWO_PAGES, "?ttl_seconds=1")
        put(service, "replaced", TWO_PAGES)
        put(service, "short", TWO_PAGES, "?ttl_seconds=1")
        eventually(lambda: service.client.get("/documents/short").status_code == 404)
        refused(service.client.get("/documents/short/pages/1/image"), 404, "document_not_found")
        assert [each["id"] for each in service.client.get("/documents").json()["data"]] == ["kept", "replaced"]
        eventually(lambda: len(folders_below(tmp_path)) == 2, "the expired document is deleted")
        assert service.client.get("/documents/replaced").status_code == 200


def test_documents_that_expired_while_no_service_ran_are_deleted_by_the_next(
    reranker: Reranker, tmp_path: Path
) -> None:
    with running_service(fake_loader(reranker), document_store=str(tmp_path)) as service:
        put(service, "short", TWO_PAGES, "?ttl_seconds=3600")
        put(service, "kept", TWO_PAGES)
        assert service.client.get("/documents/short").status_code == 200
    [manifest] = [path for path in tmp_path.rglob("manifest.json") if b'"expires":null' not in path.read_bytes()]
    past = str(int(time.time()) - 5)
    [marker] = manifest.parent.glob("*.until-*")
    manifest.write_text(manifest.read_text().replace(marker.name.rpartition("-")[2], past))
    marker.rename(marker.with_name(f"{marker.name.rpartition('-')[0]}-{past}"))
    with running_service(fake_loader(reranker), document_store=str(tmp_path)) as service:
        eventually(lambda: len(folders_below(tmp_path)) == 1, "the expired document is deleted")
        assert service.client.get("/documents/kept").status_code == 200


def folders_below(store: Path) -> set[Path]:
    """Of documents that have files."""
    return {path.parent for path in store.rglob("*") if path.is_file()}


def test_pages_are_drawn_behind_all_rerank_requests(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    put(service, "report", TWO_PAGES)
    eventually(lambda: service.client.get("/documents/report").json()["state"] == "ready")
    priorities: list[bool] = []
    original = Rasterizer.request

    def noting(
        rasterizer: Rasterizer, documents: Sequence[RasterDocument], *, share_id: str = "", background: bool = False
    ) -> PendingRaster:
        priorities.append(background)
        return original(rasterizer, documents, share_id=share_id, background=background)

    monkeypatch.setattr(Rasterizer, "request", noting)
    image_of(service.client.get("/documents/report/pages/1/image"))
    assert priorities == [True]
