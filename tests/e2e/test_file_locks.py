"""Locks on files move with their holders, also on files that are mapped."""

from __future__ import annotations

import pytest
from world import World

from transship.lab.images.sample_images import push_sample_image
from transship.lab.state import LabState

pytestmark = pytest.mark.lab

# The parent holds a lock and the mapping all the time; its child tries to take the lock from it.
PROGRAM = """
import fcntl, mmap, os, time
file = open("/tmp/shared", "w+b")
file.truncate(4096)
memory = mmap.mmap(file.fileno(), 4096)
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 10)
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 0, 100)
if os.fork():
    while True:
        time.sleep(0.01)
other = open("/tmp/shared", "r+b")
tries = 0
while True:
    for size, start in ((5, 10), (1, 500)):
        try:
            fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, size, start)
            print("stolen", start, flush=True)
        except OSError:
            pass
    tries += 1
    if tries % 200 == 0:
        print("tries", tries, flush=True)
    time.sleep(0.0005)
"""


@pytest.fixture(scope="module", autouse=True)
def _image(lab: LabState) -> None:
    push_sample_image(str(lab.registry), "programs")


def test_nobody_takes_a_lock_from_its_holder_in_a_move(world: World) -> None:
    container = {"image": world.image("programs"), "command": ["python3", "-c", PROGRAM]}
    world.apply("locks", container={**container, "terminationGracePeriodSeconds": 1})
    world.await_running("locks", node="node-a")
    for node in ("node-b", "node-a", "node-b"):
        world.move("locks", node)
        world.await_running("locks", node=node)
        before = world.output("locks")
        world.until(lambda: world.output("locks") != before, "it tries on")  # noqa: B023
        assert "stolen" not in world.output("locks")
        assert "tries" in world.output("locks")
