"""The pages of the repository: their links lead somewhere, and the commands, flags and variables that they name exist."""

import contextlib
import io
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from docs.site_links import with_outward_links
from service.cli import build_parser
from service.settings import PREFIX, Settings
from tests.documentation import Block, blocks


def is_of_the_repository(folders: tuple[str, ...]) -> bool:
    """Whether a page there belongs to it: not to an environment, a build, or folders that lie beside the project."""
    beside = ("build", "dist", "node_modules", "shared")
    return not any(folder in beside or (folder.startswith(".") and folder != ".github") for folder in folders)


PROJECT = Path(__file__).parents[1]
README = PROJECT / "README.md"
MOST_LINES_OF_README = 150
MANUAL = (README, *sorted((PROJECT / "docs").glob("*.md")))
PAGES = tuple(
    page for page in sorted(PROJECT.rglob("*.md")) if is_of_the_repository(page.relative_to(PROJECT).parent.parts)
)
OF_CLIENTS = {"URL", "KEY"}
"""Variables of the scripts in docs/clients.md, which are not the service's."""

OTHER_PROGRAMS = ("docker ", "python -m benchmarks.")
"""Their flags in the text of the manual are not those of `ziprerank`."""

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def name_of(page: Path) -> str:
    return str(page.relative_to(PROJECT))


def without_code(text: str) -> str:
    return _FENCED.sub("", text)


@cache
def anchors_of(page: Path) -> frozenset[str]:
    """As the usual renderers of Markdown make them from headings."""
    headings = _HEADING.findall(without_code(page.read_text()))
    return frozenset(re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings)


def links_of(page: Path) -> list[str]:
    """Targets inside the repository."""
    return [target for target in _LINK.findall(without_code(page.read_text())) if not re.match(r"[a-z]+:", target)]


def broken_links(page: Path, root: Path = PROJECT) -> Iterator[str]:
    for target in links_of(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or not file.is_relative_to(root):
            yield f"{target}: no such file"
        elif anchor and anchor not in anchors_of(file):
            yield f"{target}: no such heading"


def commands_of(page: Path) -> Iterator[list[str]]:
    """Words of each command line in the blocks of a page, without a prompt, a comment, and what a program prints."""
    for block in blocks(page):
        if block.language in ("console", "sh"):
            has_prompts = block.language == "console"
            yield from _commands_in(block.text.splitlines(), has_prompts=has_prompts)


def _commands_in(lines: list[str], *, has_prompts: bool) -> Iterator[list[str]]:
    rest = iter(lines)
    for line in rest:
        if not line.startswith("$ ") and has_prompts:
            continue
        text = line.removeprefix("$ ")
        while (words := _words(text)) is None:
            text += "\n" + next(rest)
        yield words


def _words(text: str) -> list[str] | None:
    """None where the command goes on in the next line."""
    if text.endswith("\\"):
        return None
    try:
        return shlex.split(text.replace("\\\n", " "), comments=True)
    except ValueError:  # a quote is open
        return None


def ziprerank_arguments(words: list[str]) -> list[str] | None:
    """None where another program is called."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if words[:2] == ["accelerate", "launch"]:
        words = words[words.index("ziprerank)") :] if "ziprerank)" in words else []
    is_ziprerank = bool(words) and words[0] in ("ziprerank", ".venv/bin/ziprerank", "ziprerank)")
    return words[1:] if is_ziprerank else None


@cache
def help_of(*command: str) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit) as end:
        build_parser().parse_args([*command, "--help"])
    assert end.value.code == 0, command
    return text.getvalue()


COMMANDS = (
    ("serve",), ("rank",), ("doctor",), ("demo",), ("keys", "add"), ("keys", "list"), ("keys", "remove"), ("label",),
    ("train", "stage1"), ("train", "stage2"),
)  # fmt: skip


def flags_of(text: str) -> set[str]:
    return set(re.findall(r"--[a-z][a-z0-9-]*", text))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert list(broken_links(page)) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One & two\n[a](#one--two) [b](https://host.example/c) [d](page.md#one--two) [e](page.md#three) [f](absent.md)\n"
        "[g](..)\n```\n# Four\n[h](absent.md)\n```\n[i](#four)\n"
    )
    assert list(broken_links(page, root=tmp_path)) == [
        "page.md#three: no such heading", "absent.md: no such file", "..: no such file", "#four: no such heading",
    ]  # fmt: skip
    assert sum(len(links_of(each)) for each in PAGES) > 100, "the pages are read"


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= MOST_LINES_OF_README


def test_every_page_of_the_manual_is_in_its_index() -> None:
    index = PROJECT / "docs" / "index.md"
    assert set(links_of(index)) == {page.name for page in MANUAL if page not in (README, index)}


@pytest.mark.parametrize("page", MANUAL, ids=name_of)
def test_commands_have_the_flags_that_the_program_takes(page: Path) -> None:
    for words in commands_of(page):
        arguments = ziprerank_arguments(words)
        if arguments is not None and arguments[:2] != ["train", "demo"]:
            build_parser().parse_args(arguments)
            written_out = flags_of(help_of(*arguments[: 2 if arguments[0] in ("keys", "train") else 1]))
            assert {word for word in arguments if word.startswith("--")} <= written_out, " ".join(words)


def test_commands_are_found() -> None:
    found = [words for page in MANUAL for words in commands_of(page)]
    calls = [arguments for words in found if (arguments := ziprerank_arguments(words))]
    assert len(calls) > 15 and {arguments[0] for arguments in calls} == {
        "demo", "doctor", "keys", "label", "rank", "serve", "train",
    }  # fmt: skip
    benchmarks = [words for words in found if words[1:2] == ["-m"] and words[2].startswith("benchmarks")]
    assert len(benchmarks) > 4


@pytest.mark.parametrize("page", [*MANUAL, PROJECT / "benchmarks" / "README.md"], ids=name_of)
def test_benchmarks_have_the_flags_that_are_shown(page: Path) -> None:
    """Their parsers are made in `main`, so the flags are looked up in the source."""
    for words in commands_of(page):
        if words[1:2] == ["-m"] and words[2].startswith("benchmarks."):
            path = PROJECT / words[2].replace(".", "/")
            source = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__main__.py"
            own = words[3 : words.index("--")] if "--" in words else words[3:]
            assert {flag for flag in own if flag.startswith("--")} <= flags_of(source.read_text()), " ".join(words)


@pytest.mark.parametrize("page", MANUAL, ids=name_of)
def test_flags_and_variables_in_the_text_exist(page: Path) -> None:
    known = {flag for command in COMMANDS for flag in flags_of(help_of(*command))}
    text = without_code(page.read_text())
    spans = [span for span in re.findall(r"`([^`]+)`", text) if not span.startswith(OTHER_PROGRAMS)]
    named = {flag for span in spans for flag in flags_of(span)}
    assert named <= known
    variables = {name.removeprefix(PREFIX) for name in re.findall(rf"\b{PREFIX}[A-Z_]*[A-Z]\b", text)}
    assert {name.lower() for name in variables - OF_CLIENTS} <= set(Settings.model_fields)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_targets_of_make_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:`|\$ )make ([a-z][a-z-]*)", page.read_text())
    assert set(named) <= targets


def _python_and_json() -> Iterator[tuple[Path, Block]]:
    for page in MANUAL:
        yield from ((page, block) for block in blocks(page) if block.language in ("python", "json"))


@pytest.mark.parametrize(
    ("page", "block"),
    [pytest.param(page, block, id=f"{name_of(page)} line {block.line}") for page, block in _python_and_json()],
)
def test_blocks_of_code_can_be_read(page: Path, block: Block) -> None:
    if block.language == "python":
        compile(block.text, name_of(page), "exec")
    else:
        json.loads(block.text)


def test_links_out_of_the_site_become_links_into_the_repository() -> None:
    text = "See [sizing](../deploy/README.md#sizing), [../a.md](../a.md) and [scores](scores.md#x)."
    assert with_outward_links(text, repository="https://host.example/ours/") == (
        "See [sizing](https://host.example/ours/blob/main/deploy/README.md#sizing), "
        "[../a.md](https://host.example/ours/blob/main/a.md) and [scores](scores.md#x)."
    )


def test_links_out_of_the_site_become_paths_where_the_repository_is_unknown() -> None:
    text = "See [sizing](../deploy/README.md#sizing), [a.md](../a.md) and [scores](scores.md#x)."
    expected = "See sizing (`deploy/README.md`), `a.md` and [scores](scores.md#x)."
    assert with_outward_links(text, repository=None) == expected
