"""Against a real child process that rewrites pages all the time."""

from __future__ import annotations

import subprocess
import sys

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
def process():
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "ready\n"
        yield Process(inside=1, outside=child.pid)
        child.kill()


@pytest.mark.parametrize("kind", ["writes", "digests"])
def test_a_look_tells_how_much_there_is_and_how_much_changes(process, kind) -> None:
    if kind == "writes" and not write_faults.supported():
        pytest.skip("this kernel keeps no record of writes")
    tracker = WriteTracker() if kind == "writes" else DigestTracker()
    seen = MemoryProbe(lambda: [process], tracker).run()
    assert seen.pages >= 4096
    assert 0.3 < seen.zero_share < 0.6
    assert seen.compressed_share < 0.7
    assert 900 <= seen.changes[-1][1] <= 2000
    times = [seconds for seconds, _ in seen.changes]
    assert times == sorted(times)


def test_a_look_can_be_ended_from_outside(process) -> None:
    looker = MemoryProbe(lambda: [process], DigestTracker())
    looker.stop()
    assert looker.run().pages >= 4096


def test_a_container_without_processes_has_nothing_to_show() -> None:
    seen = MemoryProbe(list, DigestTracker()).run()
    assert (seen.pages, seen.zero_share) == (0, 0.0)
