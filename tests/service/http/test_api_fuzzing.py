"""A live service against its own API description: schemathesis sends bodies and headers that it allows and that it forbids.

API_CASES: cases for each group of routes, at least; `make test-api` sets it, and adds schemathesis's boundary values.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from model import Reranker
from service.dialects.examples import PDF_BASE64, PDF_URI, PNG_BASE64, PNG_URI, REGISTERED_ID
from tests.documents import make_pdf
from tests.servers import RunningService, fake_loader, running_service

ASKED_FOR = os.environ.get("API_CASES")
CASES = int(ASKED_FOR or 80)
PHASES = "examples,coverage,fuzzing" if ASKED_FOR else "examples,fuzzing"
GROUPS = ("rerank", "documents", "operation", "description")
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "ignored_auth", "unsupported_method",
)  # fmt: skip

STRINGS = [
    PDF_URI, PNG_URI, PDF_BASE64, PNG_BASE64, f"{PDF_URI}#page=2", f"{PDF_URI}#pages=1-2,9", PNG_URI[:90], "1-2", "2-",
    REGISTERED_ID, f"{REGISTERED_ID}#page=2", f"ziprerank://{REGISTERED_ID}", f"ziprerank://{REGISTERED_ID}#page=1",
    f"ziprerank://{REGISTERED_ID}#page=0", "ziprerank://nowhere", "https://example.com/report.pdf", "file:///etc/hostname",
    json.dumps({"image": PNG_URI, "id": "\ud800", "metadata": 10**30}), json.dumps({"pdf": PDF_URI, "metadata": math.nan}),
    json.dumps({"image": PNG_URI, "metadata": "\ud800"}), "Revenue rose by 4 %.", "\0", "\u202eright to left", "ภาษา עברית 🏠",
    "[" * 500, '{"content":' * 200,
]  # fmt: skip
"""Documents, parts of them, and odd ones; sent in the place of every second string."""

INTEGERS = [0, 1, -1, 20, 21, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30]

CONFIGURATION = f"""
[dictionaries]
strings = {{values = {json.dumps(STRINGS, ensure_ascii=False)}}}
integers = {{values = {json.dumps(INTEGERS)}}}
[generation.dictionaries]
string = {{dictionary = "strings", probability = 0.5}}
integer = {{dictionary = "integers", probability = 0.2}}
"""
"""Of schemathesis, in TOML, which writes these strings and numbers as JSON does."""


@pytest.fixture
def service(reranker: Reranker) -> Iterator[RunningService]:
    with running_service(fake_loader(reranker), api_key="right") as running:
        running.client.headers["Authorization"] = "Bearer right"
        put = running.client.put(
            f"/documents/{REGISTERED_ID}", content=make_pdf(2), headers={"content-type": "application/pdf"}
        )
        assert put.status_code == 202, put.text
        yield running


def operations_of(service: RunningService, group: str) -> int:
    paths: Mapping[str, Any] = service.client.get("/openapi.json").json()["paths"]
    return sum(operation["tags"] == [group] for operations in paths.values() for operation in operations.values())


def answered(service: RunningService) -> set[str]:
    """The statuses that the service has counted."""
    lines = service.client.get("/metrics").text.splitlines()
    return {line.split('code="')[1][:3] for line in lines if line.startswith("ziprerank_requests_total{")}


@pytest.mark.parametrize("group", GROUPS)
def test_every_answer_is_as_described_and_none_is_a_server_error(
    service: RunningService, group: str, tmp_path: Path
) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    cases = math.ceil(1.5 * CASES / operations_of(service, group))  # an operation may run out of cases before its share
    run = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "run",
            f"{service.url}/openapi.json", "--header", "Authorization: Bearer right", "--include-tag", group,
            "--checks", ",".join(CHECKS), "--phases", PHASES, "--max-examples", str(cases), "--generation-deterministic",
            "--generation-with-security-parameters", "false",
            "--suppress-health-check", "all", "--warnings", "off", "--no-color", "--continue-on-failure",
            "--report", "json", "--report-json-path", "report.json",
        ],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["operations"]["tested"] == operations_of(service, group)
    assert report["test_cases"]["generated"] >= CASES, run.stdout
    print(run.stdout)
    if group == "rerank":
        assert {"200", "400", "404", "422"} <= answered(service), "bodies of every kind are sent"
