"""The body of `POST /rerank` as multipart/form-data, made piece by piece: files are read while they are sent.

Format: RFC 7578.
"""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.commands.rank_job import ExitCode, RankError, RankJob, file_size, printable, unreadable_file

_PIECE_BYTES = 1 << 18
_ESCAPES = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})  # as browsers do


@dataclass(frozen=True, slots=True, kw_only=True)
class _FilePart:
    file: Path
    size: int  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankForm:
    """A body of known length."""

    content_type: str
    byte_count: int
    _parts: tuple[bytes | _FilePart, ...]

    def pieces(self) -> Iterator[bytes]:
        """The body, read from the files as it is consumed. Raises: RankError for a file that cannot be read."""
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
            else:
                yield from _file_pieces(part)


def make_form(job: RankJob) -> RerankForm:
    """Opens no file. Raises: RankError for a path that is not a file."""
    boundary = secrets.token_hex(16)
    parts: list[bytes | _FilePart] = [_field(boundary, "query", job.query)]
    if job.max_results is not None:
        parts.append(_field(boundary, "top_n", str(job.max_results)))
    if job.keep_ratio is not None:
        parts.append(_field(boundary, "ziprerank", json.dumps({"keep_ratio": job.keep_ratio})))
    for file, pages in zip(job.files, job.selections, strict=True):
        parts.append(_field(boundary, "pages", pages or ""))
        name = file.name.translate(_ESCAPES)
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        parts += [head.encode(errors="replace"), _FilePart(file=file, size=file_size(file)), b"\r\n"]
    parts.append(f"--{boundary}--\r\n".encode())
    return RerankForm(
        content_type=f"multipart/form-data; boundary={boundary}",
        byte_count=sum(len(part) if isinstance(part, bytes) else part.size for part in parts),
        _parts=tuple(parts),
    )


def _field(boundary: str, name: str, value: str) -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
    return f"{head}{value}\r\n".encode(errors="replace")


def _file_pieces(part: _FilePart) -> Iterator[bytes]:
    """Exactly as many bytes as announced: the length of the body is sent before it."""
    left = part.size
    try:
        with part.file.open("rb") as stream:
            while left:
                piece = stream.read(min(_PIECE_BYTES, left))
                if not piece:
                    raise RankError(ExitCode.DOCUMENT, f"{printable(part.file)}: it became shorter while it was sent.")
                left -= len(piece)
                yield piece
    except OSError as error:
        raise unreadable_file(part.file, error) from error
