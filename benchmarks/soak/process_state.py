"""What a process holds, as Linux tells it: memory, handles, threads, children, files of its temporary folder."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

COUNTS = ("handles", "threads", "memfds", "workers", "temporary_files")
"""Fields that must be as at the start when all work is done."""

_MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessState:
    resident_mebibytes: float
    handles: int  # open files, sockets and pipes
    threads: int
    memfds: int  # of the handles, those of shared memory without a file
    workers: int  # child processes, dead ones that nobody has waited for among them
    temporary_files: int

    @property
    def counts(self) -> dict[str, int]:
        """Those of `COUNTS`."""
        fields = asdict(self)
        return {name: fields[name] for name in COUNTS}


def read_state(pid: int, temporary_folder: Path) -> ProcessState:
    """Of the process `pid`, whose TMPDIR is `temporary_folder`. Raises: OSError where the process is gone."""
    process = Path("/proc") / str(pid)
    targets = [_target(process / "fd" / name) for name in os.listdir(process / "fd")]
    threads = os.listdir(process / "task")
    return ProcessState(
        resident_mebibytes=int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / _MEBIBYTE,
        handles=len(targets),
        threads=len(threads),
        memfds=sum(target.startswith("/memfd:") for target in targets),
        workers=sum(_children(process / "task" / thread) for thread in threads),
        temporary_files=sum(1 for _ in temporary_folder.rglob("*")),
    )


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:  # closed meanwhile
        return ""


def _children(task: Path) -> int:
    try:
        return len((task / "children").read_text().split())
    except FileNotFoundError:  # the thread has ended meanwhile
        return 0
