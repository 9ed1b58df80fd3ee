"""Workflow files, by actionlint and against what they call; the commit hook and the issue forms. They run on a host alone."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.tools import ROOT, run, tool

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(file for file in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if file.stem != "config")
FIELDS = {"markdown", "textarea", "input", "dropdown", "checkboxes"}

workflows = pytest.mark.parametrize("file", WORKFLOWS, ids=[file.stem for file in WORKFLOWS])


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def jobs(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = read(file)["jobs"]
    return found


def steps(file: Path) -> Iterator[dict[str, Any]]:
    for job in jobs(file).values():
        yield from job.get("steps", [])


def targets_of(text: str) -> set[str]:
    """The targets that the lines of a script make."""
    return set(re.findall(r"\bmake ([a-z-]+)", text))


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_actionlint_finds_nothing() -> None:
    assert {file.stem for file in WORKFLOWS} == {"check", "publish"}
    run("actionlint", *WORKFLOWS)


def test_actionlint_finds_a_matrix_value_that_is_not_there(tmp_path: Path) -> None:
    faulty = tmp_path / "check.yml"
    faulty.write_text(
        (GITHUB / "workflows" / "check.yml").read_text().replace("matrix.python }}", "matrix.pyton }}", 1)
    )
    done = subprocess.run([tool("actionlint"), str(faulty)], capture_output=True, text=True)
    assert done.returncode == 1 and '"pyton" is not defined' in done.stdout


@workflows
def test_actions_of_others_are_pinned_by_version(file: Path) -> None:
    used = [step["uses"] for step in steps(file) if "uses" in step]
    assert used and [name for name in used if not re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", name)] == []


@workflows
def test_jobs_may_write_only_what_they_publish_and_end(file: Path) -> None:
    assert read(file)["permissions"] == {"contents": "read"}
    for name, job in jobs(file).items():
        written = {kind for kind, right in job.get("permissions", {}).items() if right == "write"}
        allowed = {"image": {"packages"}, "tags": {"packages"}, "chart": {"packages"}, "release": {"contents"}}
        assert written == (allowed.get(name, set()) if file.stem == "publish" else set()), name
        assert "timeout-minutes" in job or job.get("uses", "").startswith("./"), name
        for step in job.get("steps", []):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"] == {"persist-credentials": False}, name


def test_the_check_runs_what_the_projects_ci_runs() -> None:
    own = targets_of((ROOT / ".ci" / "run").read_text())
    here = {target for step in steps(GITHUB / "workflows" / "check.yml") for target in targets_of(step.get("run", ""))}
    assert len(own) > 5 and own <= here
    assert here <= makefile_targets()


@pytest.mark.parametrize("job", ["code", "test"])
def test_code_and_tests_run_on_every_supported_python(job: str) -> None:
    versions = jobs(GITHUB / "workflows" / "check.yml")[job]["strategy"]["matrix"]["python"]
    assert versions == ["3.11", "3.12", "3.13"]
    assert f'requires-python = ">={versions[0]}"' in (ROOT / "pyproject.toml").read_text()


def test_every_variant_of_the_image_is_published_with_the_suffix_that_make_gives() -> None:
    images = jobs(GITHUB / "workflows" / "publish.yml")["image"]["strategy"]["matrix"]["include"]
    suffixes = {image["variant"]: image["suffix"] for image in images}
    assert suffixes == {"cuda": "cu130", "cpu": "cpu", "ray": "ray"}
    for variant, suffix in suffixes.items():
        printed = subprocess.run(
            ["make", "-n", "image", f"VARIANT={variant}"], cwd=ROOT, capture_output=True, text=True
        )
        assert re.search(rf"--tag ziprerank:\S+-{suffix} ", printed.stdout)


def test_the_chart_is_given_the_published_image(tmp_path: Path) -> None:
    """The workflow's own command, on a copy of the values."""
    values = tmp_path / "deploy" / "helm" / "ziprerank" / "values.yaml"
    values.parent.mkdir(parents=True)
    values.write_text((ROOT / "deploy" / "helm" / "ziprerank" / "values.yaml").read_text())
    [script] = [step["run"] for step in steps(GITHUB / "workflows" / "publish.yml") if "sed " in step.get("run", "")]
    subprocess.run(
        ["bash", "-ec", script], cwd=tmp_path, env={"IMAGE": "ghcr.io/us/ranker", "PATH": "/usr/bin:/bin"}, check=True
    )
    assert read(values)["image"]["repository"] == "ghcr.io/us/ranker"


def test_the_commit_hook_makes_the_check() -> None:
    [repository] = read(ROOT / ".pre-commit-config.yaml")["repos"]
    [hook] = repository["hooks"]
    assert (repository["repo"], hook["language"], hook["pass_filenames"]) == ("local", "system", False)
    assert targets_of(hook["entry"]) == {"check"} <= makefile_targets()


@pytest.mark.parametrize("form", FORMS, ids=[form.stem for form in FORMS])
def test_an_issue_form_has_the_parts_that_the_host_wants(form: Path) -> None:
    written = read(form)
    assert {"name", "description", "body"} <= set(written) <= {"name", "description", "body", "labels", "title"}
    fields = [field for field in written["body"] if field["type"] != "markdown"]
    assert fields and {field["type"] for field in written["body"]} <= FIELDS
    assert len({field["id"] for field in fields}) == len(fields)
    for field in fields:
        assert set(field) <= {"type", "id", "attributes", "validations"} and field["attributes"]["label"]
        options = field["attributes"].get("options", [])
        assert (field["type"] == "dropdown") == bool(options) and len(set(options)) == len(options)


def test_the_pull_request_template_names_targets_that_there_are() -> None:
    named = targets_of((GITHUB / "pull_request_template.md").read_text())
    assert {"check", "test"} <= named <= makefile_targets()
