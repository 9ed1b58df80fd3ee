"""The site that `make docs` builds: strict, and without requests to other hosts. Needs the extra `docs`."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    find_spec("mkdocs") is None and os.environ.get("REQUIRE_MKDOCS") != "1",
    reason="mkdocs is not installed; make docs installs it",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_built(site: Path) -> None:
    pages = {page.stem for page in (PROJECT / "docs").glob("*.md")}
    assert len(pages) > 10 and pages <= {page.stem for page in site.glob("*.html")}


def test_pages_load_nothing_from_other_hosts(site: Path) -> None:
    loaded = re.compile(r"""<(?:script|img|iframe)[^>]*\bsrc=["']?([^"' >]+)|<link[^>]*\bhref=["']?([^"' >]+)""")
    places = {
        first or second for page in site.glob("*.html") for first, second in loaded.findall(page.read_text("utf-8"))
    }
    assert len(places) > 3, "the pages are read"
    assert [place for place in places if re.match(r"(https?:)?//", place)] == []
    styles = "".join(style.read_text("utf-8") for style in site.rglob("*.css"))
    assert not re.search(r"""(url\(|@import)\s*["']?(https?:)?//""", styles)


def test_no_link_leaves_the_site_by_its_folder(site: Path) -> None:
    for page in site.glob("*.html"):
        assert 'href="../' not in page.read_text("utf-8"), page.name
