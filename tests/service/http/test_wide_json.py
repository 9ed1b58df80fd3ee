"""Bodies of 30 MB that would become gigabytes of objects, or seconds of work: a real process answers each as any other."""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.patience import PATIENCE_SECONDS, wait_until_ready
from tests.processes import listening_url, process

SIZE = 30 << 20
CAN_RESET_PEAKS = os.access("/proc/self/clear_refs", os.W_OK)
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def with_value(value: bytes) -> bytes:
    """In a field that nobody reads."""
    return b'{"query": "locks", "documents": ["a text"], "other": ' + value + b"}"


def with_document(text: bytes) -> bytes:
    return b'{"query": "locks", "documents": ["' + text + b'"]}'


ORDINARY = with_document(b"data:application/pdf;base64," + b"A" * SIZE)
NAMES = [str(number) for number in range(90_000)]
HOSTILE: dict[str, tuple[int, Callable[[], bytes]]] = {
    "empty arrays": (413, lambda: with_value(b"[" + b"[]," * (SIZE // 3) + b"[]]")),
    "numbers": (413, lambda: with_value(b"[" + b"1," * (SIZE // 2) + b"1]")),
    "members": (413, lambda: with_value(b"{" + b",".join(b'"%d":1' % n for n in range(2_000_000)) + b"}")),
    "nested arrays": (413, lambda: with_value(b"[" * (SIZE // 2) + b"]" * (SIZE // 2))),
    "escaped quotes": (413, lambda: with_document(b'\\"' * (SIZE // 2))),
    "escaped letters": (413, lambda: with_document(b"\\u0041" * (SIZE // 6))),
    "one wide character": (413, lambda: with_document(b"a" * SIZE + "😀".encode())),
    "one escaped wide character": (413, lambda: with_document(b"a" * SIZE + b"\\ud83d\\ude00")),
    "spaces": (200, lambda: with_value(b"1" + b" " * SIZE)),
    "one number": (400, lambda: with_value(b"1" * SIZE)),
    "nothing but quotes": (400, lambda: b'""' * (SIZE // 2)),
    "percent-encoding": (415, lambda: with_document(b"data:application/pdf," + b"%41" * (SIZE // 3))),
    "JSON in strings": (
        413,
        lambda: with_document(json.dumps(json.dumps({"image": "A", "x": [[]] * 70_000})).encode()[1:-1] * 100),
    ),
}
SMALL = {
    "wrong names": json.dumps({"query": "a", "documents": [{"t": "x"}] * 90, "rank_fields": [1] * 190_000}),
    "names for many documents": json.dumps({"query": "a", "documents": [{}] * 9000, "rank_fields": NAMES}),
    "options": json.dumps({"query": "a", "documents": ["x"], "ziprerank": dict.fromkeys(NAMES, 1)}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A process of the service."""

    client: httpx.Client
    pid: int

    def post(self, body: bytes) -> tuple[int, float, int]:
        """Status, CPU seconds of the process, and bytes by which its memory rose while it answered."""
        folder = Path(f"/proc/{self.pid}")
        (folder / "clear_refs").write_text("5")
        bytes_before, seconds_before = self._bytes("VmRSS"), self._cpu_seconds()
        status = self.client.post("/rerank", content=body, headers={"content-type": "application/json"}).status_code
        return status, self._cpu_seconds() - seconds_before, self._bytes("VmHWM") - bytes_before

    def _bytes(self, name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024

    def _cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    if not CAN_RESET_PEAKS:
        pytest.skip("needs Linux's record of a process's peak memory")
    flags = ("--model", "demo", "--device", "cpu", "--port", "0", "--rasterizer-processes", "1")
    with process(*flags) as running, httpx.Client(base_url=listening_url(running), timeout=PATIENCE_SECONDS) as client:
        wait_until_ready(client)
        yield Service(client=client, pid=running.pid)


@pytest.fixture(scope="module")
def ordinary_seconds(service: Service) -> float:
    """CPU for an ordinary body of the same size; the first one warms up."""
    service.post(ORDINARY)
    return sum(service.post(ORDINARY)[1] for _ in range(3)) / 3


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_costs_no_more_memory_and_time_than_an_ordinary_one_may(
    service: Service, ordinary_seconds: float, name: str
) -> None:
    expected, make = HOSTILE[name]
    body = make()
    status, seconds, risen = service.post(body)
    assert status == expected
    assert risen < 4 * len(body)
    assert seconds < 10 * ordinary_seconds
    assert service.client.get("/readyz").status_code == 200


@pytest.mark.parametrize("name", SMALL)
def test_a_small_hostile_body_costs_less_than_an_ordinary_large_one_may(
    service: Service, ordinary_seconds: float, name: str
) -> None:
    status, seconds, risen = service.post(SMALL[name].encode())
    assert 400 <= status < 500
    assert risen < SIZE
    assert seconds < 10 * ordinary_seconds
