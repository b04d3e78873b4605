"""How a source decides and sends: predictions, throttling, compression, limits, one at a time."""

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
    """Move it, wait until it runs there, and return the status of the migration."""
    world.move(name, to)
    world.await_running(name, node=to)
    status: dict[str, Any] = world.migrations(name)[-1]["status"]
    return status


def quota(world: World, node: str, name: str) -> str:
    """Return the CPU quota of the container's cgroups."""
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


def test_the_status_has_the_prediction_and_the_result(world: World) -> None:
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
        code, report = plan(world, "counter", "--to", "node-b")
        world.goes_on(client)

    assert (code, report["obstacles"]) == (0, [])
    assert report["strategy"] == "PreCopy"
    assert report["prediction"]["bytes"] > 64 * MEBI
    assert report["memoryBytes"] > 64 * MEBI
    assert 2 * MEBI < report["dirtyRate"] < 40 * MEBI
    assert report["linkRate"] > 10 * MEBI
    assert world.migrations("counter") == []
    world.await_one_copy("counter", node="node-a")

    moved(world, "counter", to="node-b")  # its writes are not tracked any more


def test_a_plan_reports_the_obstacle_of_a_move(world: World) -> None:
    wish = {"maxDowntimeMilliseconds": 1}
    world.apply("counter", container=counter(memory=32), migration=wish)
    world.await_running("counter", node="node-a")
    moved_once = moved_back_and_forth(world, "counter")
    code, report = plan(world, "counter", "--to", "node-b")

    assert moved_once
    assert code == 1
    assert [obstacle["reason"] for obstacle in report["obstacles"]] == ["DowntimeTooLong"]
    assert "maxDowntimeMilliseconds" in report["obstacles"][0]["message"]


def moved_back_and_forth(world: World, name: str) -> bool:
    """Have both agents measure a handover, with PreCopy, which has no limit."""
    world.patch(name, {"migration": {"strategy": "PreCopy"}})
    for node in ("node-b", "node-a"):
        moved(world, name, to=node)
    world.patch(name, {"migration": {"strategy": "Auto"}})
    return True


def test_a_container_that_writes_faster_than_the_link_is_throttled_only_for_the_move(
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
def test_a_throttled_container_gets_its_quota_back_however_the_move_ends(
    world: World, end: str
) -> None:
    world.limit_rate("20mbit")
    world.apply("counter", container=counter(memory=64, dirty=100))
    world.await_running("counter", node="node-a")
    free = quota(world, "node-a", "counter")
    world.move("counter", "node-b")
    world.until(lambda: quota(world, "node-a", "counter") != free, "it is throttled")
    if end == "restart":
        world.kill("agent:node-a")
        world.move("counter", "node-a")
        world.restart("agent:node-a")
    else:
        world.move("counter", "node-a")
    world.until(lambda: quota(world, "node-a", "counter") == free, "it has its quota back")
    world.await_running("counter", node="node-a")


def test_pages_are_compressed_on_a_slow_link_unless_the_user_forbids_it(world: World) -> None:
    world.limit_rate("200mbit")
    container = {"command": ["python3", "-c", COMPRESSIBLE], "terminationGracePeriodSeconds": 1}
    world.apply("text", container={"image": world.image("counter"), **container})
    world.await_running("text", node="node-a")
    auto = moved(world, "text", to="node-b")["memory"]
    world.patch("text", {"migration": {"compression": "None"}})
    never = moved(world, "text", to="node-a")["memory"]
    world.patch("text", {"migration": {"compression": "Zstd"}})
    always = moved(world, "text", to="node-b")["memory"]

    assert auto["wireBytes"] < never["wireBytes"]  # how much depends on the free CPU
    assert never["compressedPercent"] == 100
    assert always["compressedPercent"] < 50
    assert always["wireBytes"] < never["wireBytes"] / 2


def test_a_freeze_may_last_as_long_as_the_memory_keeps_coming(world: World) -> None:
    """It takes longer than the timeout of a step without progress: 72 MiB in 30 s."""
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
    sent = sum(one["bytes"] for one in status["rounds"])
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
    """Return the times of freeze and resume, by the source's clock."""
    began = {step["name"]: step["startTime"] for step in status["steps"]}
    return began["Freeze"], began["Resume"]
