"""The page and its files as a browser gets them: on or off, without a key, under strict rules, below a root path."""

import re
from collections.abc import Iterator

import pytest

from model import Reranker
from service.commands.demo import PDF
from tests.servers import RunningService, fake_loader, running_service

FILES = {
    "api.js": "text/javascript", "app.js": "text/javascript", "overlay.js": "text/javascript",
    "ranking.js": "text/javascript", "snippets.js": "text/javascript", "view.js": "text/javascript",
    "style.css": "text/css", "icon.svg": "image/svg+xml", "town-guide.pdf": "application/pdf",
}  # fmt: skip
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@pytest.fixture(scope="module")
def service(reranker: Reranker) -> Iterator[RunningService]:
    with running_service(fake_loader(reranker), playground=True, api_key="right", root_path="/ranker") as running:
        yield running


@pytest.mark.parametrize("path", ["/playground", "/playground/", "/ranker/playground", "/ranker/playground/"])
def test_the_page_needs_no_key_and_links_below_the_root_path(service: RunningService, path: str) -> None:
    page = service.client.get(path)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    links = re.findall(r"""(?:src|href)="([^"]+)\"""", page.text)
    assert len(links) == 3 and all(link.startswith("/ranker/playground/") for link in links)
    for link in links:
        assert service.client.get(link).status_code == 200, link
    assert "{{" not in page.text and "http" not in page.text
    assert not re.search(r"<script(?![^>]*src=)|<style|style=|\son\w+=", page.text), "the policy forbids such code"


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_served_with_its_type_under_the_strict_policy(service: RunningService, name: str) -> None:
    answer = service.client.get(f"/playground/{name}")
    assert answer.status_code == 200 and answer.headers["content-type"].split(";")[0] == FILES[name]
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = service.client.get(f"/playground/{name}", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert service.client.head(f"/playground/{name}").status_code == 200


def test_the_sample_is_the_bundled_document(service: RunningService) -> None:
    assert service.client.get("/playground/town-guide.pdf").content == PDF.read_bytes()


@pytest.mark.parametrize("name", ["index.html", "..%2Fopenapi.py", "%2e%2e%2fapi.js", "", "nothing.js", "api.js%00"])
def test_no_other_file_is_served(service: RunningService, name: str) -> None:
    answer = service.client.get(f"/playground/{name}", headers={"authorization": "Bearer right"})
    assert answer.status_code == 404 or (name == "" and answer.status_code == 200)


def test_the_api_still_needs_the_key(service: RunningService) -> None:
    assert service.client.get("/info").status_code == 401
    assert service.client.get("/documents/a/pages/1/image").status_code == 401


def test_the_page_is_described(service: RunningService) -> None:
    described = service.client.get("/openapi.json", headers={"authorization": "Bearer right"}).json()["paths"]
    assert described["/playground"]["get"]["security"] == []


def test_by_default_there_is_no_playground(reranker: Reranker) -> None:
    with running_service(fake_loader(reranker)) as service:
        assert service.client.get("/playground").status_code == 404
        assert service.client.get("/playground/app.js").status_code == 404
        assert "/playground" not in service.client.get("/openapi.json").json()["paths"]
