from dataclasses import fields
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from model import MAX_WINDOW_SIZE, RerankerConfig
from model.attention import FAMILIES
from model.attention_kernels import KERNELS
from service.cli import main
from service.dialects.request_fields import ZipRerankOptions
from service.settings import LIMITS, Attention, Settings, read_settings, unknown_variables


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.upper().startswith("ZIPRERANK_")]:
        monkeypatch.delenv(name)


def test_the_default_model_is_the_published_one() -> None:
    settings = Settings()
    assert (settings.model, settings.keep_ratio, settings.window_size, settings.stride) == (
        "mtri-admin/ZipRerank", 0.5, 20, 10
    )  # fmt: skip


@pytest.mark.parametrize("name", [field.name for field in fields(RerankerConfig)])
def test_every_field_of_the_library_is_a_setting_with_the_same_default(name: str) -> None:
    assert getattr(Settings(), name) == getattr(RerankerConfig(), name)


@pytest.mark.parametrize("kind", [Settings, ZipRerankOptions])
@pytest.mark.parametrize("name", ["window_size", "stride"])
def test_a_window_is_as_long_as_the_library_takes_and_no_longer(
    kind: type[Settings] | type[ZipRerankOptions], name: str
) -> None:
    longest: dict[str, Any] = {"window_size": MAX_WINDOW_SIZE, "stride": MAX_WINDOW_SIZE}
    assert getattr(kind(**longest), name) == MAX_WINDOW_SIZE
    with pytest.raises(ValidationError, match=name):
        kind(**{**longest, name: MAX_WINDOW_SIZE + 1})


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZIPRERANK_MAX_PAGES", "7")
    monkeypatch.setenv("ZIPRERANK_PORT", "9000")
    settings = read_settings({"port": "9001"})
    assert (settings.max_pages, settings.port) == (7, 9001)


def test_every_scheme_of_the_decoder_can_be_asked_for() -> None:
    assert Settings().quantise == "auto"
    for scheme in ("none", "fp8", "int8", "auto"):
        assert read_settings({"quantise": scheme}).quantise == scheme


def test_a_misspelt_variable_is_refused_with_the_right_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZIPRERANK_MAX_PAGE", "7")
    with pytest.raises(ValueError, match=r"ZIPRERANK_MAX_PAGE is not a setting; did you mean ZIPRERANK_MAX_PAGES\?"):
        read_settings({})


def test_other_programs_variables_are_none_of_our_business() -> None:
    assert unknown_variables({"PATH": "/bin", "ZIP": "x"}) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEEP_RATIO", "0"),
        ("KEEP_RATIO", "nan"),
        ("WINDOW_SIZE", "21"),
        ("PORT", "http"),
        ("MAX_PAGES", "0"),
        ("DOCUMENT_STORE", "ftpx://host/documents"),
        ("CACHE_SCOPE", "mine"),
        ("QUANTISE", "int4"),
        ("DEVICE", "gpu"),
        ("ROOT_PATH", "ranker"),
        ("ROOT_PATH", "/ranker/"),
        ("TRUSTED_PROXIES", "balancer"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("CORS_ORIGINS", "app.example"),
        ("CORS_ORIGINS", "https://app.example/"),
        ("KEEP_ALIVE_SECONDS", "0"),
        ("KEEP_ALIVE_SECONDS", "inf"),
        ("DTYPE", "float8"),
        ("ATTENTION", "xformers"),
        ("VISION_ATTENTION", "xformers"),
        ("COMPILE", "sometimes"),
        ("URL_FETCH", ""),
        ("URL_FETCH", "on"),
        ("URL_FETCH", "example.org,10.0.0.1"),
        ("URL_FETCH", "https://example.org/documents"),
        ("URL_FETCH_SECONDS", "0"),
        ("URL_FETCH_REQUESTS", "0"),
    ],
)
def test_a_value_outside_its_range_names_the_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"ZIPRERANK_{name}", value)
    with pytest.raises(ValueError, match=f"ZIPRERANK_{name}"):
        read_settings({})


def test_relations_between_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="stride is 10 and window_size 5"):
        read_settings({"window_size": "5"})
    with pytest.raises(ValueError, match="max_in_flight_bytes"):
        read_settings({"max_in_flight_bytes": "1000"})
    with pytest.raises(ValueError, match="url_fetch_requests is 64 and max_concurrent_requests 64"):
        read_settings({"url_fetch_requests": "64"})


def test_the_key_is_not_shown() -> None:
    assert "hunter2" not in repr(Settings(api_key="hunter2"))


def test_help_shows_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["serve", "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in shown for name in Settings.model_fields)


def test_a_wrong_setting_ends_with_usage_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--keep-ratio", "2"]) == 2
    assert "ZIPRERANK_KEEP_RATIO" in capsys.readouterr().err


def test_every_kernel_can_be_asked_for() -> None:
    names = {"auto", *FAMILIES, *KERNELS}
    assert set(get_args(Attention)) == names
    assert all(read_settings({"attention": name}).attention == name for name in names)


def test_limits_are_the_settings_that_are_marked_as_such() -> None:
    """Those of a machine, such as a port or a cache's size, are none."""
    assert {"max_pages", "max_batch_tokens", "queue_seconds", "request_seconds", "rasterizer_processes"} <= set(LIMITS)
    assert not {"port", "window_size", "page_cache_bytes", "drain_grace_seconds"} & set(LIMITS)
    assert len(LIMITS) == 31


def test_the_folder_of_documents_follows_the_environment_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert Settings().document_store == "/somewhere/ziprerank/documents"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert Settings().document_store == "~/.cache/ziprerank/documents"
