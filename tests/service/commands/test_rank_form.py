"""The multipart body of `ziprerank rank --url`: read piece by piece, and as long as announced."""

from dataclasses import replace
from pathlib import Path

import pytest

from service.commands.rank_form import make_form
from service.commands.rank_job import ExitCode, RankError, RankJob
from service.dialects.multipart import parse_multipart

JOB = RankJob(files=(), selections=(), query="größer\r\nals", keep_ratio=None, max_results=None)


def job_about(*files: Path) -> RankJob:
    return replace(JOB, files=files, selections=(None,) * len(files))


def test_the_service_reads_the_fields_and_files_back(tmp_path: Path) -> None:
    odd = tmp_path / 'ein "Bericht".pdf'
    odd.write_bytes(b"--\r\n\0content")
    (tmp_path / "b.png").write_bytes(b"")
    job = replace(job_about(odd, tmp_path / "b.png"), selections=("1-3", None), keep_ratio=0.25, max_results=7)
    form = make_form(job)
    body = b"".join(form.pieces())
    assert len(body) == form.byte_count
    parts = [(part.name, part.file_name, bytes(part.data)) for part in parse_multipart([body], form.content_type)]
    assert parts == [
        ("query", None, "größer\r\nals".encode()),
        ("top_n", None, b"7"),
        ("ziprerank", None, b'{"keep_ratio": 0.25}'),
        ("pages", None, b"1-3"),
        ("file", "ein %22Bericht%22.pdf", b"--\r\n\0content"),
        ("pages", None, b""),
        ("file", "b.png", b""),
    ]


def test_a_large_file_is_never_in_memory_whole(tmp_path: Path) -> None:
    large = tmp_path / "large.pdf"
    large.write_bytes(bytes(3_000_000))
    form = make_form(job_about(large))
    lengths = [len(piece) for piece in form.pieces()]
    assert sum(lengths) == form.byte_count > 3_000_000
    assert max(lengths) <= 1 << 20


def test_a_file_that_becomes_shorter_meanwhile_is_named(tmp_path: Path) -> None:
    file = tmp_path / "growing.pdf"
    file.write_bytes(bytes(100))
    form = make_form(job_about(file))
    file.write_bytes(bytes(99))
    with pytest.raises(RankError, match=r"growing\.pdf: it became shorter") as raised:
        list(form.pieces())
    assert raised.value.exit_code is ExitCode.DOCUMENT


def test_a_file_that_becomes_longer_meanwhile_is_sent_as_it_was_announced(tmp_path: Path) -> None:
    file = tmp_path / "growing.pdf"
    file.write_bytes(bytes(100))
    form = make_form(job_about(file))
    file.write_bytes(bytes(200))
    assert sum(map(len, form.pieces())) == form.byte_count
