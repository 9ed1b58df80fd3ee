"""The scripts of docs/clients.md that need a client package, each as it stands, in the environment of its family."""

import json
import subprocess
from pathlib import Path

import pytest

from service.commands.demo import QUERY
from tests.clients.conftest import KEY, RankingService
from tests.clients.environments import ENVIRONMENTS, NODE, PYTHON_FAMILIES, interpreter, isolated
from tests.documentation import Block, blocks
from tests.patience import PATIENCE_SECONDS

TEXTS = (
    "The kitchen of the old hotel is famous for fish soup.",
    "A train leaves the station every hour.",
    "The bank gives a loan to any small business, with low interest.",
)
SCRIPTS = [each for each in blocks() if each.runner in (*PYTHON_FAMILIES, NODE)]


def command(script: Block) -> list[str]:
    """Node looks for packages beside a script, so its scripts are written there."""
    if script.runner != NODE:
        return [str(interpreter(script.runner)), "-"]
    file = ENVIRONMENTS / NODE / f"documentation-{script.line}.mjs"
    file.write_text(script.text)
    return ["node", str(file)]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: f"{script.runner} line {script.line}")
def test_scripts_print_the_order_of_the_service(service: RankingService, tmp_path: Path, script: Block) -> None:
    assert QUERY in script.text and all(text in script.text for text in TEXTS)
    done = subprocess.run(
        command(script),
        input=script.text,
        env={**isolated(tmp_path), "ZIPRERANK_URL": service.root, "ZIPRERANK_KEY": KEY},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    logits = service.logits(QUERY, TEXTS)
    best_first = sorted(range(len(TEXTS)), key=lambda place: -logits[place])
    assert best_first[0] == 2, "the text about the loan is the best"
    assert json.loads(done.stdout.splitlines()[-1]) == best_first


def test_every_family_with_a_script_of_its_own_is_run() -> None:
    assert len(SCRIPTS) > 8 and {each.runner for each in SCRIPTS} > {"sdk", "langchain", NODE}
