"""What survives: versions and manifests in a folder and in an object store, under kills, races and damage."""

import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import InternalError, UnavailableError
from service.registered.files import DocumentFiles
from service.registered.store import (
    DocumentKey,
    DocumentReplaced,
    DocumentStore,
    Failure,
    Outcome,
    new_version,
)
from tests.clocks import Clock
from tests.service.registered.stores import NEW, OLD, REPORT, manifest_of, open_store, put

OTHER = DocumentKey(tenant=b"", id="other")


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def age_by(seconds: float, *paths: Path) -> None:
    for path in paths:
        os.utime(path, (time.time() - seconds,) * 2)


def test_a_stored_document_is_found_by_another_store_on_the_same_place(url: str) -> None:
    manifest = put(open_store(url), OLD)
    other = open_store(url)
    assert other.manifest(REPORT) == manifest
    assert other.read(REPORT, manifest) == OLD


def test_a_document_is_in_processing_until_its_outcome_is_noted(url: str) -> None:
    store = open_store(url)
    manifest = put(store, OLD)
    found = store.find(REPORT)
    assert found and found.state == "processing" and store.unfinished() == [REPORT]
    failure = Failure(code="page_unreadable", message="it cannot be read.", page=2)
    store.finish(REPORT, manifest.version, Outcome(failure=failure))
    found = open_store(url).find(REPORT)
    assert found and found.state == "failed" and found.outcome == Outcome(failure=failure)
    assert store.unfinished() == []


def test_a_new_version_replaces_the_old_one_and_its_outcome(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.finish(REPORT, put(store, OLD).version, Outcome())
    new = put(store, NEW)
    found = store.find(REPORT)
    assert found and found.manifest == new and found.state == "processing"
    assert {path.name for path in files_below(tmp_path)} == {"manifest.json", f"{new.version}.document"}


def test_the_end_of_an_old_versions_processing_does_not_touch_the_new_version(url: str) -> None:
    store = open_store(url)
    old = put(store, OLD)
    new = put(open_store(url), NEW)
    store.finish(REPORT, old.version, Outcome())
    found = open_store(url).find(REPORT)
    assert found and found.manifest == new and found.state == "processing"


def test_reading_a_replaced_version_raises_document_replaced(url: str) -> None:
    store = open_store(url)
    old = put(store, OLD)
    new = put(open_store(url), NEW)
    with pytest.raises(DocumentReplaced):
        store.read(REPORT, old)
    assert store.manifest(REPORT) == new  # also where the store had remembered the old one
    open_store(url).delete(REPORT)
    with pytest.raises(DocumentReplaced):
        store.read(REPORT, new)


def test_a_deleted_document_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.finish(REPORT, put(store, OLD).version, Outcome())
    assert store.delete(REPORT)
    assert not store.delete(REPORT)
    assert store.find(REPORT) is None and store.manifest(REPORT) is None
    assert [path.name for path in tmp_path.rglob("*")] == ["shared"]


@pytest.mark.parametrize("id", [".", "..", "...", "a" * 128, "A", "a", "-", "%2e%2e"])
def test_no_id_leads_out_of_its_folder(tmp_path: Path, id: str) -> None:
    store = open_store(str(tmp_path / "store"))
    key = DocumentKey(tenant=b"", id=id)
    manifest = put(store, OLD, key)
    folders = {path.parent.parent for path in files_below(tmp_path)}
    assert folders == {tmp_path / "store" / "shared"}
    assert store.manifest(key) == manifest
    assert [document.manifest.id for document in store.list(b"", after="", limit=9).documents] == [id]


def test_ids_that_differ_in_case_alone_lie_in_different_folders() -> None:
    folders = {DocumentKey(tenant=b"", id=id).folder.lower() for id in ("Report", "report", "REPORT")}
    assert len(folders) == 3


def test_a_tenant_sees_its_own_documents_only(url: str) -> None:
    store = open_store(url)
    mine, yours = DocumentKey(tenant=b"\x01" * 32, id="report"), DocumentKey(tenant=b"\x02" * 32, id="report")
    put(store, OLD, mine)
    assert store.manifest(yours) is None and store.manifest(REPORT) is None
    assert not store.delete(yours)
    put(store, NEW, yours)
    assert store.read(mine, store.manifest(mine) or manifest_of(b"")) == OLD
    assert len(store.list(mine.tenant, after="", limit=9).documents) == 1
    assert sorted(store.unfinished(), key=lambda key: key.tenant) == [mine, yours]


def test_a_listing_is_sorted_by_id_and_goes_on_after_the_last_one(url: str) -> None:
    store = open_store(url)
    ids = [".", "A", "B", "a", "a1", "z"]
    for id in reversed(ids):
        put(store, OLD, DocumentKey(tenant=b"", id=id))
    listed, after = [], ""
    for size in (4, 2):
        listing = store.list(b"", after=after, limit=4)
        assert len(listing.documents) == size
        listed += [document.manifest.id for document in listing.documents]
        after = listing.next or "the end"
    assert listed == ids and after == "the end"
    assert store.list(b"\x07" * 32, after="", limit=4).documents == ()


@pytest.mark.parametrize("text", [b"", b"{", b"{}", b"\xff", b'{"id": "report"}'])
def test_a_damaged_manifest_is_reported_and_can_be_replaced_or_deleted(tmp_path: Path, text: bytes) -> None:
    store = open_store(str(tmp_path))
    put(store, OLD)
    other = DocumentKey(tenant=b"", id="other")
    put(store, OLD, other)
    damaged = tmp_path / REPORT.folder / "manifest.json"
    damaged.write_bytes(text)
    with pytest.raises(InternalError, match="'report' is damaged"):
        store.manifest(REPORT)
    assert [document.manifest.id for document in store.list(b"", after="", limit=9).documents] == ["other"]
    assert store.unfinished() == [other]
    store.sweep()
    new = put(store, NEW)
    assert store.manifest(REPORT) == new
    damaged.write_bytes(text)
    assert store.delete(REPORT) and store.manifest(REPORT) is None


def test_a_manifest_in_the_wrong_place_is_damaged(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put(REPORT, manifest_of(OLD, id="another"), OLD)
    with pytest.raises(InternalError, match="damaged"):
        store.manifest(REPORT)


def test_bytes_that_are_not_those_of_the_manifest_are_never_given_out(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    manifest = put(store, OLD)
    (tmp_path / REPORT.folder / f"{manifest.version}.document").write_bytes(OLD[:-1])
    with pytest.raises(InternalError, match="damaged"):
        store.read(REPORT, manifest)
    (tmp_path / REPORT.folder / f"{manifest.version}.document").unlink()
    with pytest.raises(InternalError, match="damaged"):
        store.read(REPORT, manifest)


def test_a_folder_that_cannot_be_written_makes_the_store_unavailable(tmp_path: Path) -> None:
    (tmp_path / "shared").write_bytes(b"a file where a folder should be")
    store = open_store(str(tmp_path))
    with pytest.raises(UnavailableError) as refusal:
        put(store, OLD)
    assert refusal.value.code == "store_unavailable"
    assert str(tmp_path) not in refusal.value.message


def test_leftovers_of_a_killed_process_are_swept_when_an_hour_old(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    put(store, OLD)
    kept = files_below(tmp_path)
    folder = tmp_path / REPORT.folder
    never_committed = DocumentKey(tenant=b"", id="never-committed")
    orphans = [
        folder / f"{new_version()}.document",
        folder / ".manifest.json.0123.tmp",
        tmp_path / never_committed.folder / f"{new_version()}.document",
    ]
    orphans[2].parent.mkdir()
    for orphan in orphans:
        orphan.write_bytes(b"half")
    store.sweep()
    assert files_below(tmp_path) == kept | set(orphans)
    age_by(3700, *kept, *orphans)
    foreign = tmp_path / "README"
    foreign.write_bytes(b"not ours")
    age_by(3700, foreign)
    store.sweep()
    assert files_below(tmp_path) == kept | {foreign}
    assert not orphans[2].parent.exists()


def test_a_manifest_of_an_object_store_is_read_again_after_five_seconds() -> None:
    url, clock = f"memory://{uuid.uuid4().hex}", Clock()
    here, elsewhere = open_store(url, clock), open_store(url)
    old = put(here, OLD)
    assert here.manifest(REPORT) == old
    new = put(elsewhere, NEW)
    clock.now = 4.9
    assert here.manifest(REPORT) == old
    clock.now = 5.1
    assert here.manifest(REPORT) == new
    own = put(here, OLD)  # one's own writes are seen at once
    assert here.manifest(REPORT) == own


def test_a_document_that_another_process_deleted_is_not_found_whatever_this_one_remembers() -> None:
    url, clock = f"memory://{uuid.uuid4().hex}", Clock()
    here, elsewhere = open_store(url, clock), open_store(url)
    put(here, OLD)
    assert here.manifest(REPORT) and here.find(REPORT)
    elsewhere.delete(REPORT)
    assert here.find(REPORT) is None and here.manifest(REPORT) is None
    new = put(elsewhere, NEW)
    assert here.manifest(REPORT) == new
    newest = put(elsewhere, OLD)
    found = here.find(REPORT)
    assert found is not None and found.manifest == newest == here.manifest(REPORT)


def test_a_manifest_that_is_read_while_its_document_is_deleted_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = open_store(f"memory://{uuid.uuid4().hex}", Clock())
    old = put(store, OLD)
    read = store._files.read

    def read_and_delete(path: str) -> bytes | None:
        text = read(path)
        monkeypatch.setattr(store._files, "read", read)
        store.delete(REPORT)  # as another thread may do
        return text

    monkeypatch.setattr(store._files, "read", read_and_delete)
    assert store.manifest(REPORT) == old
    assert store.manifest(REPORT) is None and store.find(REPORT) is None


def test_two_stores_on_one_folder_see_each_others_changes_at_once(tmp_path: Path) -> None:
    one, two = open_store(str(tmp_path)), open_store(str(tmp_path))
    assert two.manifest(REPORT) is None
    old = put(one, OLD)
    assert two.manifest(REPORT) == old and two.read(REPORT, old) == OLD
    new = put(two, NEW)
    assert one.manifest(REPORT) == new and one.read(REPORT, new) == NEW
    two.delete(REPORT)
    assert one.manifest(REPORT) is None


_PUTS_FOR_EVER = """
import sys
from tests.clocks import Clock
from tests.service.registered.stores import NEW, OLD, open_store, put
store = open_store(sys.argv[1])
print("begun", flush=True)
while True:
    put(store, NEW * 200_000)
    put(store, OLD * 200_000)
"""


def test_a_kill_at_any_moment_of_a_put_leaves_a_whole_version(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    put(store, OLD * 200_000)
    for round_number in range(12):
        writer = subprocess.Popen([sys.executable, "-c", _PUTS_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None and writer.stdout.readline() == b"begun\n"
        time.sleep(0.003 * round_number)  # another moment of the write each time
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        manifest = store.manifest(REPORT)
        assert manifest is not None
        assert store.read(REPORT, manifest) in (OLD * 200_000, NEW * 200_000)
    age_by(3700, *files_below(tmp_path))
    store.sweep()
    assert len(files_below(tmp_path)) == 2


def test_an_expired_document_is_found_by_nobody_and_leaves_no_file(url: str) -> None:
    wall = Clock(1_000.0)
    store = DocumentStore(DocumentFiles(url), wall_clock=wall)
    manifest = replace(manifest_of(OLD), expires=1_100)
    store.put(REPORT, manifest, OLD)
    put(store, NEW, OTHER)
    assert store.expiries() == [(1_100, REPORT)]
    wall.now = 1_099.9
    store.delete_expired(REPORT)
    assert (
        store.manifest(REPORT) == manifest
        and store.unfinished()
        and len(store.list(b"", after="", limit=9).documents) == 2
    )
    wall.now = 1_100.0
    assert store.manifest(REPORT) is None and store.find(REPORT) is None
    assert [document.manifest.id for document in store.list(b"", after="", limit=9).documents] == [OTHER.id]
    assert store.unfinished() == [OTHER]
    store.delete_expired(REPORT)
    store.delete_expired(OTHER)
    assert store.expiries() == []
    assert DocumentFiles(url).names(REPORT.folder) == []
    assert store.read(OTHER, store.manifest(OTHER) or manifest) == NEW


def test_a_document_put_again_takes_its_new_time_and_leaves_none_of_the_old(url: str) -> None:
    wall = Clock(1_000.0)
    store = DocumentStore(DocumentFiles(url), wall_clock=wall)
    for expires in (1_100, 1_200):
        store.put(REPORT, replace(manifest_of(OLD), expires=expires), OLD)
    assert store.expiries() == [(1_200, REPORT)]
    put(store, NEW)
    assert store.expiries() == []
    wall.now = 5_000.0
    store.delete_expired(REPORT)
    assert store.manifest(REPORT) is not None


def test_deleting_an_expired_document_finds_none_but_clears_its_files(url: str) -> None:
    wall = Clock(1_000.0)
    store = DocumentStore(DocumentFiles(url), wall_clock=wall)
    store.put(REPORT, replace(manifest_of(OLD), expires=1_100), OLD)
    wall.now = 2_000.0
    assert store.delete(REPORT) is False
    assert DocumentFiles(url).names(REPORT.folder) == []


def test_a_sweep_leaves_the_time_of_a_current_version(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put(REPORT, replace(manifest_of(OLD), expires=int(time.time()) + 9_000), OLD)
    (tmp_path / REPORT.folder / f"{new_version()}.document").write_bytes(b"left by a killed process")
    age_by(7_200, *files_below(tmp_path))
    store.sweep()
    assert [key for _, key in store.expiries()] == [REPORT]
    assert len(files_below(tmp_path)) == 3
