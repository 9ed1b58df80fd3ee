"""The browser tests need chromium, Node.js and the packages that `tests/browser/install` brings. Where they lack, the tests
are skipped, unless REQUIRE_BROWSER=1."""

import os
import shutil

import pytest

from tests.browser.walks import CHROMIUM, PACKAGES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("REQUIRE_BROWSER") == "1":
        return
    lacking = [
        name
        for name, is_there in (
            ("node", shutil.which("node")),
            (CHROMIUM, shutil.which(CHROMIUM)),
            ("playwright-core", (PACKAGES / "node_modules" / "playwright-core").exists()),
        )
        if not is_there
    ]
    skip = pytest.mark.skip(reason=f"needs {', '.join(lacking)} (make test-browser brings them)")
    for item in items:
        if item.nodeid.startswith("tests/browser/") and lacking:
            item.add_marker(skip)
