"""Probes a real child process that rewrites pages all the time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from transship.linux.processes import Process
from transship.memory.probe import MemoryProbe
from transship.memory.tracking import write_faults
from transship.memory.tracking.digest_tracker import DigestTracker
from transship.memory.tracking.write_tracker import WriteTracker

CHILD = """
import mmap, time
PAGES = 4096
memory = mmap.mmap(-1, PAGES * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(PAGES // 2):
    memory[page * mmap.PAGESIZE] = 1
for page in range(PAGES // 2, PAGES):
    memory[page * mmap.PAGESIZE] = 0
print("ready", flush=True)
number = 0
while True:
    for page in range(1000):
        number += 1
        memory[page * mmap.PAGESIZE + 8 : page * mmap.PAGESIZE + 16] = number.to_bytes(8, "little")
    time.sleep(0.01)
"""


@pytest.fixture
def process() -> Iterator[Process]:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield Process(inside=1, outside=child.pid)
        child.kill()


@pytest.mark.parametrize("kind", ["writes", "digests"])
def test_a_probe_measures_the_size_and_the_changes_of_memory(process: Process, kind: str) -> None:
    if kind == "writes" and not write_faults.supported():
        pytest.skip("this kernel keeps no record of writes")
    tracker = WriteTracker() if kind == "writes" else DigestTracker()
    result = MemoryProbe(lambda: [process], tracker).run()
    assert result.pages >= 4096
    assert 0.3 < result.zero_share < 0.6
    assert result.compressed_share < 0.7
    assert 900 <= result.changes[-1][1] <= 2000
    times = [seconds for seconds, _ in result.changes]
    assert times == sorted(times)


def test_a_probe_can_be_stopped(process: Process) -> None:
    probe = MemoryProbe(lambda: [process], DigestTracker())
    probe.stop()
    assert probe.run().pages >= 4096


def test_a_container_without_processes_has_no_memory() -> None:
    result = MemoryProbe(list, DigestTracker()).run()
    assert (result.pages, result.zero_share) == (0, 0.0)
