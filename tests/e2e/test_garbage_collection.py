"""What is left over on a node goes, what is anybody's stays, and the doctor tells of both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from world import World, condition

pytestmark = pytest.mark.lab

STRANGER = "0b5e2c1a-0000-4000-8000-0000000000ff"
PROGRAM = [sys.executable, "-c", "from transship.cli import main; main()"]
STATE, RUN = "/var/lib/transship", "/run/transship"
MAKE_LITTER = f"""
set -e
mkdir -p {STATE}/containers/{STRANGER}/upper/etc {RUN}/runc/{STRANGER}
mkdir -p {RUN}/checkpoint/{STRANGER}/work
mkdir -p {RUN}/conmon/{STRANGER} {RUN}/exits {RUN}/netns
echo data > {STATE}/containers/{STRANGER}/upper/etc/file
touch {RUN}/exits/{STRANGER} {RUN}/{STRANGER}-1234.rsync {RUN}/netns/{STRANGER}
unshare --net={RUN}/netns/{STRANGER} true
for cgroup in $(find /sys/fs/cgroup -maxdepth 6 -type d -path '*transship/conmon'); do
  mkdir -p "$(dirname "$cgroup")/{STRANGER}"
done
"""
LOOK = f"""
find {STATE}/containers {RUN} /sys/fs/cgroup -name '{STRANGER}*' 2>/dev/null
grep {STRANGER} /proc/self/mountinfo
true
"""


def litter(world: World, node: str) -> None:
    world.on_node(node, "sh", "-c", MAKE_LITTER)
    assert world.on_node(node, "sh", "-c", LOOK)


def what_is_left(world: World, node: str) -> str:
    return world.on_node(node, "sh", "-c", LOOK)


def restart_agent(world: World, node: str) -> None:
    world.kill(f"agent:{node}")
    world.restart(f"agent:{node}")


def doctor(world: World) -> tuple[int, str]:
    """Its exit code, and what it has found in one text."""
    done = subprocess.run(
        [*PROGRAM, "doctor", "--json"],
        env={**os.environ, "KUBECONFIG": str(world.lab.kubeconfig)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    findings = json.loads(done.stdout)["findings"]
    return done.returncode, "\n".join(f"{f['subject']}: {f['problem']}" for f in findings)


@pytest.fixture
def tidy(world: World) -> Iterator[None]:
    yield
    world.on_node("node-a", "sh", "-c",
                  f"umount {STATE}/containers/{STRANGER}/upper/mnt 2>/dev/null; "
                  f"rm -f {STATE}/journal/quarantine/{STRANGER}*")  # fmt: skip
    restart_agent(world, "node-a")
    world.until(lambda: not what_is_left(world, "node-a"), "the node is clean")


def test_what_no_record_owns_goes_at_the_next_start_and_nothing_else(
    world: World, tidy: None
) -> None:
    world.apply("counter")
    world.await_running("counter", node="node-a")
    litter(world, "node-a")
    with world.client("counter") as client:
        restart_agent(world, "node-a")
        world.until(lambda: not what_is_left(world, "node-a"), "the litter is gone")
        world.goes_on(client)
    world.await_one_copy("counter", node="node-a")
    world.await_running("counter", node="node-a")
    world.until(lambda: doctor(world) == (0, ""), "nothing is found any more")


def test_nothing_is_deleted_through_a_mount(world: World, tidy: None) -> None:
    litter(world, "node-a")
    world.on_node("node-a", "sh", "-c",
                  f"mkdir -p {STATE}/precious {STATE}/containers/{STRANGER}/upper/mnt && "
                  f"echo data > {STATE}/precious/file && "
                  f"mount --bind {STATE}/precious {STATE}/containers/{STRANGER}/upper/mnt",
                  )  # fmt: skip
    restart_agent(world, "node-a")
    world.until(lambda: "no record owns its" in doctor(world)[1], "the doctor tells of it")
    assert doctor(world)[0] == 1
    assert world.on_node("node-a", "cat", f"{STATE}/precious/file") == "data\n"


def test_a_torn_record_is_told_and_nothing_of_its_container_is_touched(
    world: World, tidy: None
) -> None:
    litter(world, "node-a")
    before = what_is_left(world, "node-a")
    world.on_node("node-a", "sh", "-c", f"echo '{{torn' > {STATE}/journal/{STRANGER}.json")
    restart_agent(world, "node-a")

    def ails() -> bool:
        status = world.get("nagent", "node-a")["status"]
        return bool(condition(status, "Healthy")["reason"] == "Quarantined")

    world.until(ails, "the node says so")
    code, output = doctor(world)
    assert code == 1
    assert "its record is in quarantine: RecordDamaged" in output
    assert what_is_left(world, "node-a") == before
