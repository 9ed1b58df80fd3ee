"""Releases of the project: `make release VERSION=1.2.3` commits and tags one here, and pushes nothing.

`python deploy/release/release.py cut 1.2.3` moves the unreleased part of the changelog into a section, sets the version in
every file that has it, commits and tags. `… notes 1.2.3` prints that section, and fails unless the files have this version.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHANGELOG = "CHANGELOG.md"
VERSIONED = {
    "pyproject.toml": ('version = "{}"',),
    "deploy/helm/ziprerank/Chart.yaml": ("\nversion: {}", "\nappVersion: {}"),
    "deploy/kubernetes/base/kustomization.yaml": ("newTag: {}-",),
    "deploy/ray/rayservice.yaml": ("ziprerank:{}-",),
    "docker/README.md": ("ziprerank:{}-",),
    "docker/compose.yaml": ("ziprerank:{}-",),
}
"""Files with the version, and the texts that it is in."""

_UNRELEASED = "## Unreleased\n"
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


class Refusal(Exception):
    """Why there is no release; says what to do."""


def cut(version: str) -> None:
    """Commit and tag the release `version` on main. Raises: Refusal; nothing is changed then."""
    if _git("status", "--porcelain"):
        raise Refusal("The working tree has changes. Commit or stash them first.")
    if (branch := _git("branch", "--show-current")) != "main":
        raise Refusal(f"Releases are cut on main, and this is {branch or 'no branch'}. Run: git switch main")
    if _git("tag", "--list", f"v{version}"):
        raise Refusal(f"The tag v{version} is there already. Take a higher version.")
    before = _version_of_project()
    if _numbers(version) < _numbers(before):
        raise Refusal(f"{version} is lower than the project's version, {before}. Take a higher one.")
    changelog = _with_section(_read(CHANGELOG), version)
    changed = {name: _with_version(name, before, version) for name in VERSIONED}
    for name, text in (changed | {CHANGELOG: changelog}).items():
        (ROOT / name).write_text(text, encoding="utf-8")
    _git("add", CHANGELOG, *VERSIONED)
    _git("commit", "--quiet", "--message", f"Release {version}")
    _git("tag", "--annotate", f"v{version}", "--message", f"ZipRerank {version}")
    print(f"Committed and tagged v{version}. Publish it with: git push --atomic origin main v{version}")


def notes(version: str) -> None:
    """Print the changelog's section of `version`. Raises: Refusal; for a file with another version too."""
    _numbers(version)
    for name, texts in VERSIONED.items():
        for text in texts:
            if text.format(version) not in _read(name):
                raise Refusal(
                    f"{name} has no {text.format(version).strip()}. The tag is not on a commit of `make release`."
                )
    found = re.search(
        rf"^## {re.escape(version)} - [^\n]*\n(.*?)(?=^## |\Z)", _read(CHANGELOG), re.MULTILINE | re.DOTALL
    )
    if found is None:
        raise Refusal(f"{CHANGELOG} has no section {version}. `make release` writes it.")
    print(found[1].strip())


def _with_section(changelog: str, version: str) -> str:
    """The changelog with what is unreleased in a section of its own."""
    before, unreleased, after = changelog.partition(_UNRELEASED)
    if not unreleased or not re.match(r"\s*[^#\s]|\s*### ", after):
        raise Refusal(f"{CHANGELOG} has nothing under Unreleased. Write there what is new for users.")
    date = datetime.now(UTC).date().isoformat()
    return f"{before}{_UNRELEASED}\n## {version} - {date}\n{after}"


def _with_version(name: str, before: str, version: str) -> str:
    text = _read(name)
    for part in VERSIONED[name]:
        old, new = part.format(before), part.format(version)
        if old not in text:
            raise Refusal(f"{name} has no {old.strip()}, so its version cannot be set. Correct the file first.")
        text = text.replace(old, new)
    return text


def _version_of_project() -> str:
    found = re.search(r'^version = "(.+)"$', _read("pyproject.toml"), re.MULTILINE)
    if found is None:
        raise Refusal("pyproject.toml has no version.")
    return found[1]


def _numbers(version: str) -> tuple[int, ...]:
    if (found := _VERSION.fullmatch(version)) is None:
        raise Refusal(f"{version!r} is no version. Give three numbers, such as 1.2.3.")
    return tuple(int(number) for number in found.groups())


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


_COMMANDS: dict[str, Callable[[str], None]] = {"cut": cut, "notes": notes}


def main() -> int:
    """Exit status 1 for a refusal, 2 for a wrong command line."""
    if len(sys.argv) != 3 or sys.argv[1] not in _COMMANDS:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        _COMMANDS[sys.argv[1]](sys.argv[2])
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
