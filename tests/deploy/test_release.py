"""`make release` on a repository of its own that holds this project's files."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.tools import ROOT

COPIED = ("CHANGELOG.md", "Makefile", "deploy", "docker", "pyproject.toml")
"""Beside CHANGELOG.md and Makefile: everything that may hold the version; a test below looks for others."""

VERSION_NOW = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[0]
CHANGELOG = """\
# Changelog

## Unreleased

### Added

- Something new.

## 0.0.1 - 2020-01-02

- The first.
"""


def tracked(*paths: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *paths], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return [name for name in listed.stdout.split("\0") if name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository with the files of the project, on main."""

    folder: Path

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        self.git("commit", "--all", "--message", f"Change {name}")

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()

    def release(self, *arguments: str) -> tuple[int, str]:
        """Exit status, and what it says."""
        script = self.folder / "deploy" / "release" / "release.py"
        done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    for name in tracked(*COPIED):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    made = Repository(folder=tmp_path)
    made.git("init", "--quiet", "--initial-branch", "main")
    made.git("config", "user.name", "Somebody")
    made.git("config", "user.email", "somebody@example.com")
    made.git("add", "--all")
    made.git("commit", "--message", "Start")
    made.write("CHANGELOG.md", CHANGELOG)
    return made


def test_a_release_is_a_commit_and_a_tag_with_the_version_everywhere(repository: Repository) -> None:
    status, said = repository.release("cut", "9.8.7")
    assert (status, "git push --atomic origin main v9.8.7" in said) == (0, True)
    assert repository.git("status", "--porcelain") == ""
    assert repository.git("log", "-1", "--format=%s %D") == "Release 9.8.7 HEAD -> main, tag: v9.8.7"
    assert repository.git("cat-file", "-t", "v9.8.7") == "tag"
    assert 'version = "9.8.7"' in repository.read("pyproject.toml")
    chart = repository.read("deploy/helm/ziprerank/Chart.yaml")
    assert "\nversion: 9.8.7\n" in chart and "\nappVersion: 9.8.7\n" in chart
    assert "ziprerank:9.8.7-cu130" in repository.read("docker/compose.yaml")
    left = re.compile(rf"(ziprerank:|newTag: |ersion(:| =) \"?){re.escape(VERSION_NOW)}")
    kept = [name for name in tracked(*COPIED) if left.search(repository.read(name))]
    assert kept == []


def test_what_was_unreleased_gets_a_section_with_a_date(repository: Repository) -> None:
    repository.release("cut", "9.8.7")
    text = repository.read("CHANGELOG.md")
    assert re.search(
        r"## Unreleased\n\n## 9\.8\.7 - \d{4}-\d\d-\d\d\n\n### Added\n\n- Something new\.\n\n## 0\.0\.1", text
    )
    assert repository.release("notes", "9.8.7") == (0, "### Added\n\n- Something new.\n")


def test_the_version_that_the_files_have_can_be_the_first_release(repository: Repository) -> None:
    assert repository.release("cut", VERSION_NOW)[0] == 0
    assert repository.release("notes", VERSION_NOW) == (0, "### Added\n\n- Something new.\n")


def test_make_takes_the_version(repository: Repository) -> None:
    command = ["make", "release", "VERSION=9.8.7", f"PYTHON={sys.executable}"]
    subprocess.run(command, cwd=repository.folder, check=True, capture_output=True)
    assert repository.git("tag") == "v9.8.7"


def test_make_wants_a_version(repository: Repository) -> None:
    done = subprocess.run(["make", "release"], cwd=repository.folder, capture_output=True, text=True)
    assert done.returncode != 0 and "make release VERSION=1.2.3" in done.stderr
    assert repository.git("tag") == ""


def test_a_changed_tree_is_refused(repository: Repository) -> None:
    (repository.folder / "new.txt").write_text("new")
    is_refused(repository, "9.8.7", "The working tree has changes")


def test_another_branch_is_refused(repository: Repository) -> None:
    repository.git("switch", "--quiet", "--create", "topic")
    is_refused(repository, "9.8.7", "this is topic")


def test_a_second_release_of_a_version_is_refused(repository: Repository) -> None:
    repository.git("tag", "v9.8.7")
    is_refused(repository, "9.8.7", "v9.8.7 is there already")


@pytest.mark.parametrize(
    ("version", "said"),
    [("0.0.0", "lower than"), ("9.8", "no version"), ("v9.8.7", "no version"), ("9.8.07", "no version")],
)
def test_a_wrong_version_is_refused(repository: Repository, version: str, said: str) -> None:
    is_refused(repository, version, said)


def test_a_release_with_nothing_new_is_refused(repository: Repository) -> None:
    repository.write("CHANGELOG.md", CHANGELOG.replace("### Added\n\n- Something new.\n\n", ""))
    is_refused(repository, "9.8.7", "nothing under Unreleased")


def test_a_file_with_another_version_is_refused(repository: Repository) -> None:
    chart = "deploy/helm/ziprerank/Chart.yaml"
    repository.write(chart, repository.read(chart).replace("appVersion: ", "appVersion: 1"))
    is_refused(repository, "9.8.7", f"{chart} has no appVersion")


def is_refused(repository: Repository, version: str, said: str) -> None:
    """No release, for the reason `said`, and nothing is changed."""
    before = repository.git("status", "--porcelain"), repository.git("log", "--format=%H"), repository.git("tag")
    status, message = repository.release("cut", version)
    assert status == 1 and said in message, message
    assert before == (
        repository.git("status", "--porcelain"),
        repository.git("log", "--format=%H"),
        repository.git("tag"),
    )


def test_notes_of_a_commit_that_is_no_release_are_refused(repository: Repository) -> None:
    status, message = repository.release("notes", "9.8.7")
    assert status == 1 and 'pyproject.toml has no version = "9.8.7"' in message
    assert repository.release("notes", VERSION_NOW)[1].startswith(f"CHANGELOG.md has no section {VERSION_NOW}")


def test_no_other_file_names_an_image_of_the_version() -> None:
    """Such a file belongs into `VERSIONED` of deploy/release/release.py."""
    sources = subprocess.run(
        ["git", "grep", "--files-with-matches", "--fixed-strings", f"ziprerank:{VERSION_NOW}"],
        cwd=ROOT, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    versioned = (ROOT / "deploy" / "release" / "release.py").read_text()
    assert sources and [name for name in sources if f'"{name}"' not in versioned] == []
