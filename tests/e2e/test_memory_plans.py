"""How a source decides and sends: predictions, slowing down, compression, limits, turns."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from typer.testing import CliRunner
from world import World

from transship.cli.app import app

pytestmark = pytest.mark.lab

MEBI = 1 << 20


def counter(*, memory: int, dirty: int = 0) -> dict[str, Any]:
    env = {"MEMORY_MIB": memory, "DIRTY_MIB_PER_SECOND": dirty}
    return {"env": [{"name": name, "value": str(value)} for name, value in env.items()]}


def moved(world: World, name: str, *, to: str) -> dict[str, Any]:
    """The status of the last migration, when it is over and the container runs there."""
    world.move(name, to)
    world.await_running(name, node=to)
    status: dict[str, Any] = world.migrations(name)[-1]["status"]
    return status


def quota(world: World, node: str, name: str) -> str:
    """What the kernel says of the container's share of the processors."""
    uid = world.get("placement", name)["metadata"]["uid"]
    script = (
        f"cd /sys/fs/cgroup; for f in $(find . -path '*/{uid}/*' "
        "'(' -name cpu.max -o -name cpu.cfs_quota_us -o -name cpu.cfs_period_us ')'); "
        "do cat $f; done"
    )
    return world.on_node(node, "sh", "-c", script)


def plan(world: World, *words: str) -> tuple[int, dict[str, Any]]:
    arguments = ["plan", *words, "--kubeconfig", str(world.lab.kubeconfig), "--json"]
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, json.loads(result.stdout)


def test_what_was_expected_stands_next_to_what_happened(world: World) -> None:
    world.apply("counter", container=counter(memory=32, dirty=5))
    world.await_running("counter", node="node-a")
    status = moved(world, "counter", to="node-b")

    assert status["strategy"] == "PreCopy"
    expected = status["prediction"]
    assert expected["blackoutMilliseconds"] > 0
    assert expected["bytes"] > 32 * MEBI
    assert "left after" in expected["explanation"]
    assert status["blackoutMilliseconds"] > 0
    assert status["memory"]["wireBytes"] > 32 * MEBI


def test_a_plan_measures_and_moves_nothing(world: World) -> None:
    world.apply("counter", container=counter(memory=64, dirty=8))
    world.await_running("counter", node="node-a")
    with world.client("counter") as client:
        code, found = plan(world, "counter", "--to", "node-b")
        world.goes_on(client)

    assert (code, found["obstacles"]) == (0, [])
    assert found["strategy"] == "PreCopy"
    assert found["prediction"]["bytes"] > 64 * MEBI
    assert found["memoryBytes"] > 64 * MEBI
    assert 2 * MEBI < found["dirtyRate"] < 40 * MEBI
    assert found["linkRate"] > 10 * MEBI
    assert world.migrations("counter") == []
    world.await_one_copy("counter", node="node-a")

    moved(world, "counter", to="node-b")  # nobody follows its writes any more


def test_a_plan_says_what_would_make_the_move_fail(world: World) -> None:
    wish = {"maxDowntimeMilliseconds": 1}
    world.apply("counter", container=counter(memory=32), migration=wish)
    world.await_running("counter", node="node-a")
    moved_once = moved_back_and_forth(world, "counter")
    code, found = plan(world, "counter", "--to", "node-b")

    assert moved_once
    assert code == 1
    assert [each["reason"] for each in found["obstacles"]] == ["DowntimeTooLong"]
    assert "maxDowntimeMilliseconds" in found["obstacles"][0]["message"]


def moved_back_and_forth(world: World, name: str) -> bool:
    """Both agents get to know what a handover takes; by PreCopy, which no limit stops."""
    world.patch(name, {"migration": {"strategy": "PreCopy"}})
    for node in ("node-b", "node-a"):
        moved(world, name, to=node)
    world.patch(name, {"migration": {"strategy": "Auto"}})
    return True


def test_a_writer_faster_than_the_link_is_slowed_down_and_free_again_on_the_target(
    world: World,
) -> None:
    world.limit_rate("100mbit")
    world.apply("counter", container=counter(memory=64, dirty=100))
    world.await_running("counter", node="node-a")
    free = quota(world, "node-a", "counter")
    with world.client("counter") as client:
        status = moved(world, "counter", to="node-b")
        world.goes_on(client)

    assert "of its CPU time" in status["message"]
    assert len(status["rounds"]) > 1
    assert quota(world, "node-b", "counter") == free


@pytest.mark.parametrize("end", ["abort", "restart"])
def test_whatever_ends_the_move_a_slowed_container_gets_its_quota_back(
    world: World, end: str
) -> None:
    world.limit_rate("20mbit")
    world.apply("counter", container=counter(memory=64, dirty=100))
    world.await_running("counter", node="node-a")
    free = quota(world, "node-a", "counter")
    world.move("counter", "node-b")
    world.until(lambda: quota(world, "node-a", "counter") != free, "it is slowed down")
    if end == "restart":
        world.kill("agent:node-a")
        world.move("counter", "node-a")
        world.restart("agent:node-a")
    else:
        world.move("counter", "node-a")
    world.until(lambda: quota(world, "node-a", "counter") == free, "it has its quota back")
    world.await_running("counter", node="node-a")


def test_pages_are_compressed_on_a_slow_link_and_not_where_it_is_forbidden(world: World) -> None:
    world.limit_rate("200mbit")
    container = {"command": ["python3", "-c", COMPRESSIBLE], "terminationGracePeriodSeconds": 1}
    world.apply("text", container={"image": world.image("counter"), **container})
    world.await_running("text", node="node-a")
    auto = moved(world, "text", to="node-b")["memory"]
    world.patch("text", {"migration": {"compression": "None"}})
    never = moved(world, "text", to="node-a")["memory"]
    world.patch("text", {"migration": {"compression": "Zstd"}})
    always = moved(world, "text", to="node-b")["memory"]

    assert auto["wireBytes"] < never["wireBytes"]  # how much depends on what the processors allow
    assert never["compressedPercent"] == 100
    assert always["compressedPercent"] < 50
    assert always["wireBytes"] < never["wireBytes"] / 2


def test_a_freeze_may_last_as_long_as_the_memory_keeps_coming(world: World) -> None:
    """Longer than anybody waits for a step that stands still: 72 MiB in 30 s."""
    world.limit_rate("20mbit")
    settings = {"strategy": "StopAndCopy", "compression": "None"}
    world.apply("counter", container=counter(memory=72, dirty=1), migration=settings)
    world.await_running("counter", node="node-a")
    with world.client("counter") as client:
        status = moved(world, "counter", to="node-b")
        world.goes_on(client)

    assert status["phase"] == "Succeeded"
    assert status["blackoutMilliseconds"] > 20_000


COMPRESSIBLE = """
import time
memory = bytearray(b"".join(b"%016d transship " % number for number in range(64 << 15)))
while True:
    time.sleep(1)
"""


def test_a_bandwidth_limit_holds_for_files_and_memory_together(world: World) -> None:
    limit = 20_000_000
    wish = {"maxBandwidth": "20M", "compression": "None"}
    world.apply("counter", container=counter(memory=64), migration=wish)
    world.await_running("counter", node="node-a")
    status = moved(world, "counter", to="node-b")

    took = {step["name"]: step["milliseconds"] / 1e3 for step in status["steps"]}
    seconds = took["CopyFiles"] + took["CopyMemory"]
    sent = sum(each["bytes"] for each in status["rounds"])
    assert sent > 64 * MEBI
    assert sent / seconds < 1.05 * limit


def test_containers_that_move_at_once_are_frozen_one_after_the_other(world: World) -> None:
    names = [f"counter-{number}" for number in range(4)]
    for name in names:
        world.apply(name, container=counter(memory=16, dirty=2))
    for name in names:
        world.await_running(name, node="node-a")
    for name in names:
        world.move(name, "node-b")
    for name in names:
        world.await_running(name, node="node-b")

    frozen = sorted(span(world.migrations(name)[-1]["status"]) for name in names)
    for (_, end), (begin, _) in itertools.pairwise(frozen):
        assert begin >= end


def span(status: dict[str, Any]) -> tuple[str, str]:
    """From the freeze to go, by the source's clock."""
    began = {step["name"]: step["startTime"] for step in status["steps"]}
    return began["Freeze"], began["Resume"]
