"""`ziprerank demo`, which a newcomer runs first."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pymupdf
import pytest

from service.cli import main
from service.commands.demo import PDF, QUERY
from tests.patience import PATIENCE_SECONDS


def test_the_page_with_the_words_of_the_query_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pymupdf.open(PDF) as document:
        right = [page.number + 1 for page in document if set(QUERY.split()) <= set(page.get_text().lower().split())]
    assert len(right) == 1
    assert main(["demo", "--once"]) == 0
    shown = capsys.readouterr().out
    first = next(line for line in shown.splitlines() if line.split()[:1] == ["1"])
    assert first.split()[-1].endswith(f"page={right[0]}")
    assert "small demo model" in shown and "/playground" not in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "kill"])
def test_the_demo_serves_the_playground_until_it_is_stopped(number: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", "import sys; from service.cli import main; sys.exit(main(['demo']))"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as demo:
        assert demo.stdout is not None
        watch = threading.Timer(PATIENCE_SECONDS, demo.kill)
        watch.start()
        try:
            address = next(
                found[0] for line in demo.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+/\S+", line))
            )
            page = httpx.get(address)
            assert page.status_code == 200 and "ZipRerank playground" in page.text
            assert address.endswith("/playground#sample")
            demo.send_signal(number)
            rest = demo.stdout.read()
            assert demo.wait() == 0
        finally:
            watch.cancel()
            demo.kill()
    assert "The service stopped with exit code 0." in rest
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)
