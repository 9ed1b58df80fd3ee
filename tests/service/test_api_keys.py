"""The file of API keys: hashes alone, replaced as a whole, read again when it changes, and never half."""

import json
import stat
from pathlib import Path

import pytest

from service.api_keys import ApiKey, KeyRing, KeysFileError, hash_of, make_key, read_keys, write_keys
from tests.clocks import Clock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_keys_come_back_as_they_were_written_and_only_their_owner_can_read_them(path: Path) -> None:
    entries = [ApiKey(id="a", sha256=hash_of("one")), ApiKey(id="b", sha256=hash_of("two"), max_pages_per_minute=9)]
    write_keys(path, entries)
    assert read_keys(path) == tuple(entries)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_file_has_no_key() -> None:
    key, entry = make_key("search")
    other, _ = make_key("search")
    assert key != other and len(key) > 40
    assert entry.sha256 == hash_of(key) and key not in entry.model_dump_json()


@pytest.mark.parametrize(
    ("text", "mention"),
    [
        ("", "malformed"),
        ("[]", "malformed"),
        ('{"keys": [{"id": "a"}]}', "keys[0].sha256"),
        ('{"keys": [{"id": "a b", "sha256": "%s"}]}' % ("0" * 64), "keys[0].id"),
        ('{"keys": [{"id": "a", "sha256": "zr_secret"}]}', "keys[0].sha256"),
        ('{"keys": [{"id": "a", "sha256": "%s", "max_pages": 3}]}' % ("0" * 64), "keys[0].max_pages"),
        ('{"keys": [{"id": "a", "sha256": "%s", "max_pages_per_minute": 0}]}' % ("0" * 64), "max_pages_per_minute"),
    ],
    ids=lambda value: value[:40],
)
def test_a_malformed_file_is_refused_with_the_place_and_without_the_value(path: Path, text: str, mention: str) -> None:
    path.write_text(text)
    with pytest.raises(KeysFileError) as refusal:
        read_keys(path)
    assert mention in str(refusal.value) and str(path) in str(refusal.value)
    assert "zr_secret" not in str(refusal.value)


def test_a_file_that_is_not_there_is_refused(path: Path) -> None:
    with pytest.raises(KeysFileError, match="No such file"):
        KeyRing(path=path)


def test_a_malformed_id_or_limit_makes_no_key() -> None:
    with pytest.raises(KeysFileError, match="id"):
        make_key("two words")
    with pytest.raises(KeysFileError, match="max_concurrent_requests"):
        make_key("a", max_concurrent_requests=0)


def test_a_ring_knows_the_single_key_and_those_of_the_file(path: Path) -> None:
    write_keys(path, [ApiKey(id="team", sha256=hash_of("old")), ApiKey(id="team", sha256=hash_of("new"))])
    ring = KeyRing(single="one", path=path)
    found = {sent: entry.id if (entry := ring.find(sent)) else None for sent in ("one", "old", "new", "", "é", "neW")}
    assert found == {"one": "default", "old": "team", "new": "team", "": None, "é": None, "neW": None}


def test_keys_are_required_where_there_is_a_key_or_a_file_even_an_empty_one(path: Path) -> None:
    assert not KeyRing().is_required
    assert KeyRing(single="one").is_required
    write_keys(path, [])
    ring = KeyRing(path=path)
    assert ring.is_required and ring.find("") is None


def test_a_changed_file_is_read_again_after_a_second(path: Path) -> None:
    clock = Clock()
    write_keys(path, [ApiKey(id="a", sha256=hash_of("one"))])
    ring = KeyRing(path=path, clock=clock)
    write_keys(path, [ApiKey(id="b", sha256=hash_of("two"))])
    assert ring.find("one") is not None
    clock.now += 1.0
    assert ring.find("one") is None and ring.find("two") is not None


@pytest.mark.parametrize("content", [None, '{"keys": [', json.dumps({"keys": [{"id": "a"}]})])
def test_a_file_that_has_become_malformed_or_is_gone_leaves_the_keys_as_they_were(
    path: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    write_keys(path, [ApiKey(id="a", sha256=hash_of("one"))])
    ring = KeyRing(path=path, clock=clock)
    path.unlink()
    if content is not None:
        path.write_text(content)
    for _ in range(3):
        clock.now += 1.0
        assert ring.find("one") is not None
    assert len([line for line in caplog.messages if line.startswith("the keys stay as they were: ")]) == 1
    path.unlink(missing_ok=True)
    write_keys(path, [ApiKey(id="b", sha256=hash_of("two"))])
    clock.now += 1.0
    assert ring.find("one") is None and ring.find("two") is not None
