"""The damage itself: it changes files, knows their formats, and stays within bounds."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.documents import make_image, make_pdf
from tests.fuzzing import mutations
from tests.fuzzing.mutations import damage_png_chunk, duplicate_object, mutated
from tests.fuzzing.runs import FuzzRun
from tests.fuzzing.samples import samples

PDF, PNG = make_pdf(2), make_image()


@pytest.mark.parametrize(
    ("mutation", "data"),
    [
        *((getattr(mutations, name), PDF) for name in (
            "flip_bits", "truncate", "duplicate_chunk", "remove_chunk", "swap_chunks", "overwrite_number",
            "change_pdf_number", "damage_cross_references", "duplicate_object", "remove_object",
        )),
        *((getattr(mutations, name), PNG) for name in ("duplicate_png_chunk", "damage_png_chunk")),
    ],
)  # fmt: skip
def test_every_kind_of_damage_changes_most_files(mutation: Callable[[bytes, Random], bytes], data: bytes) -> None:
    results = [mutation(data, Random(seed)) for seed in range(20)]
    assert sum(result != data for result in results) > 10
    assert [mutation(data, Random(seed)) for seed in range(20)] == results


def test_a_damaged_png_chunk_has_a_right_checksum() -> None:
    for seed in range(20):
        data, start = damage_png_chunk(PNG, Random(seed)), 8
        while start < len(data):
            (length,) = struct.unpack_from(">I", data, start)
            checked = data[start + 4 : start + 8 + length]
            assert struct.unpack_from(">I", data, start + 8 + length)[0] == zlib.crc32(checked)
            start += 12 + length


def test_a_duplicated_object_takes_the_number_of_another() -> None:
    counts = {duplicate_object(PDF, Random(seed)).count(b" 0 obj") for seed in range(5)}
    assert counts == {PDF.count(b" 0 obj") + 1}


def test_every_accepted_kind_of_file_is_a_sample() -> None:
    beginnings = (b"%PDF", b"\x89PNG", b"\xff\xd8", b"II", b"RIFF", b"GIF8", b"BM")
    assert {begin for begin in beginnings for sample in samples() if sample.data.startswith(begin)} == set(beginnings)


def test_no_mutation_of_any_sample_fails_or_grows_without_end() -> None:
    others = [sample.data for sample in samples()]
    for number, sample in enumerate(samples() * 5):
        assert 0 < len(mutated(sample.data, others, Random(number))) <= 1 << 20


def test_a_failure_is_kept_by_its_hash_and_can_be_made_again(tmp_path: Path) -> None:
    run = FuzzRun(name="x", folder=tmp_path / "fuzz", seconds=0, seed="7", only="3-5")
    assert list(run.cases()) == [3, 4, 5]
    run.fail(4, b"data", "it hangs", sample="pdf")
    kept = sorted(path.name for path in run.folder.iterdir())
    assert kept == ["3a6eb0790f39ac87", "3a6eb0790f39ac87.json"]
    assert (run.folder / kept[0]).read_bytes() == b"data"
    assert '"case": 4' in (run.folder / kept[1]).read_text()
    with pytest.raises(AssertionError, match="FUZZ_SEED=7 FUZZ_CASES=NUMBER"):
        run.report()


def test_a_run_without_time_still_has_its_fewest_cases() -> None:
    assert len(list(FuzzRun(name="x", seconds=0, only="").cases())) == 100
