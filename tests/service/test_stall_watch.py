"""When a device that finishes nothing ends the process. Each test in a process of its own, because it may end."""

import subprocess
import sys

import pytest

SCRIPT = """
import itertools, sys, time
from service.stall_watch import StallWatch

class Device:
    readings = iter({readings})

    @property
    def stalled_seconds(self):
        return next(self.readings, 0.0)

started = time.monotonic()
watch = StallWatch(Device(), exit_seconds=1.0)
watch.start()
time.sleep({seconds})
watch.stop()
print("goes on")
"""


def run(readings: str, *, seconds: float) -> "subprocess.CompletedProcess[str]":
    """A process that does nothing for some seconds, while the watch reads the stall of its device."""
    script = SCRIPT.format(readings=readings, seconds=seconds)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


def test_a_device_that_finishes_nothing_ends_the_process_with_the_stacks_of_all_threads() -> None:
    ended = run("itertools.repeat(1000.0)", seconds=600)
    assert (ended.returncode, ended.stdout) == (71, "")
    assert "stall_exit_seconds is 1" in ended.stderr
    assert "in _run" in ended.stderr and "in <module>" in ended.stderr


@pytest.mark.parametrize(
    "readings",
    [
        pytest.param("itertools.repeat(0.0)", id="idle"),
        pytest.param("itertools.cycle([0.0, 0.3, 0.6, 0.9])", id="a batch ends before its time is up"),
        pytest.param("itertools.cycle([1000.0, 1000.0, 0.0])", id="the process was stopped meanwhile"),
    ],
)
def test_a_device_that_moves_on_does_not(readings: str) -> None:
    ended = run(readings, seconds=1.8)
    assert (ended.returncode, ended.stdout) == (0, "goes on\n"), ended.stderr
