"""`ziprerank doctor --plan` says which cards have room for a checkpoint, and deploy/README.md holds what it prints."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.cli import main
from service.commands.doctor_plan import CARD_GIGABYTES

ROOT = Path(__file__).parents[3]
README = ROOT / "deploy" / "README.md"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("ZIPRERANK_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, str]:
    """What the command prints on a machine without any checkpoint, as text and (True) as JSON."""
    home = str(tmp_path_factory.mktemp("home"))
    return {is_json: run(home, *(["--json"] if is_json else [])) for is_json in (False, True)}


def run(home: str, *flags: str) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": home, "HF_HUB_OFFLINE": "1"}
    code = "import sys; from service.cli import main; sys.exit(main(['doctor', '--plan', *sys.argv[1:]]))"
    command = [sys.executable, "-c", code, *flags]
    return subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def rows(printed: dict[bool, str]) -> list[dict[str, Any]]:
    content = json.loads(printed[True])
    assert content["checkpoint"] == "mtri-admin/ZipRerank" and content["is_published"] is True
    found: list[dict[str, Any]] = content["rows"]
    return found


def chosen(rows: list[dict[str, Any]], way: str) -> dict[int, str | None]:
    """By size of the card in GB what `auto` takes there; None: nothing fits."""
    return {
        size: next((row["quantise"] for row in rows if row["card_bytes"] == size * 10**9 and row[way]), None)
        for size in CARD_GIGABYTES
    }


def test_there_is_a_row_for_each_card_and_scheme(rows: list[dict[str, Any]]) -> None:
    assert [(row["card_bytes"] // 10**9, row["decoder"]) for row in rows] == [
        (size, scheme) for size in (16, 24, 32, 40, 48, 80, 141) for scheme in ("bfloat16", "fp8", "int8")
    ]


def test_auto_rounds_where_bfloat16_leaves_too_little(rows: list[dict[str, Any]]) -> None:
    unrounded = dict.fromkeys((32, 40, 48, 80, 141), "none")
    assert chosen(rows, "is_auto_with_fp8") == {16: "int8", 24: "fp8", **unrounded}
    assert chosen(rows, "is_auto_without_fp8") == {16: "int8", 24: "int8", **unrounded}


def test_the_figures_add_up_to_the_card(rows: list[dict[str, Any]]) -> None:
    parts = ("weight_bytes", "batch_bytes", "page_feature_bytes", "taken_or_reserved_bytes")
    for row in rows:
        assert sum(row[part] for part in parts) == row["needed_bytes"]
        assert row["fits"] is (row["needed_bytes"] <= row["card_bytes"])
        assert row["needed_bytes"] == row["card_bytes"] or not row["fits"], "page features take what is left"
        assert row["a4_pages"] == row["page_feature_bytes"] // (736 * 4 * 4096 * 2) * row["fits"]
    assert any(not row["fits"] for row in rows)


def test_the_readme_holds_the_table_that_is_printed(printed: dict[bool, str]) -> None:
    table = "\n".join(line for line in printed[False].splitlines() if line.startswith("|"))
    assert len(table.splitlines()) == 2 + 3 * len(CARD_GIGABYTES)
    assert f"\n\n{table}\n\n" in README.read_text(), "copy the table of `ziprerank doctor --plan` into deploy/README.md"


def test_a_checkpoint_on_this_machine_is_planned_by_its_own_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--plan", "--json", "--model", "demo"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["checkpoint"], content["is_published"]) == ("demo", False)
    assert all(row["fits"] and row["weight_bytes"] < 10**8 for row in content["rows"])
    assert main(["doctor", "--plan", "--model", "demo"]) == 0
    assert capsys.readouterr().out.startswith("The sizes are those of demo, which is on this machine.")


def test_settings_change_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--plan", "--json", "--dtype", "float16", "--feature-cache-gpu-bytes", "0"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["decoder"] for row in rows} == {"float16", "int8"}, "products of 8-bit floats give bfloat16"
    assert {row["page_feature_bytes"] for row in rows} == {0}
    assert chosen(rows, "is_auto_without_fp8")[24] == "none", "no room for page features is asked for"


def test_settings_that_no_card_can_have_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--plan", "--dtype", "int4"]) == 2
    streams = capsys.readouterr()
    assert streams.out == "" and "ZIPRERANK_DTYPE" in streams.err
