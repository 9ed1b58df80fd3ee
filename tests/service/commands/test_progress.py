"""The progress bar: on a terminal alone, within its line, and gone before other output."""

import io

import pytest

from service.commands.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(terminal: Terminal) -> list[str]:
    """Each content that the line had."""
    return terminal.getvalue().split("\r\033[K")[1:]


def test_the_bar_grows_with_the_steps() -> None:
    terminal = Terminal()
    progress = Progress(terminal)
    progress.begin("rendering 4 pages", 4)
    for _ in range(4):
        progress.count_page("render", 0.1)
    assert [line[-5:] for line in shown(terminal)] == ["  0 %", " 25 %", " 50 %", " 75 %", "100 %"]
    assert [line.count("#") for line in shown(terminal)] == [0, 7, 15, 22, 30]


def test_a_line_that_did_not_change_is_not_drawn_again() -> None:
    terminal = Terminal()
    progress = Progress(terminal)
    progress.begin("sending documents", 1_000_000)
    for _ in range(1000):
        progress.advance(1)
    assert len(shown(terminal)) == 1


def test_clearing_leaves_an_empty_line() -> None:
    terminal = Terminal()
    progress = Progress(terminal)
    progress.begin("loading demo")
    progress.clear()
    assert shown(terminal) == ["loading demo …", ""]


def test_a_long_line_is_cut_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    terminal = Terminal()
    Progress(terminal).begin("a task with a very long name", 10)
    assert [len(line) for line in shown(terminal)] == [19]


def test_nothing_is_printed_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.begin("rendering 4 pages", 4)
    progress.advance()
    progress.clear()
    assert stream.getvalue() == ""
