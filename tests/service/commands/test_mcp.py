"""The arguments of `ziprerank mcp`. Its tools: tests/end_to_end/test_mcp.py."""

import importlib.util

import pytest

from service.cli import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--url", "ftp://host"), "--url: give an address"),
        (("--url", "http://user:secret@host"), "--url: give an address"),
        (("--api-key", "kéy"), "--api-key: a key has printable ASCII characters only"),
    ],
)
def test_wrong_usage_is_named(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str) -> None:
    assert main(["mcp", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_without_the_extra_the_command_names_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["mcp"]) == 2
    assert "pip install 'ziprerank[mcp]'" in capsys.readouterr().err
