"""Containers that end, crash repeatedly or are not ready: a move does not change that."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from world import POLL_SECONDS, World, condition

pytestmark = pytest.mark.lab

ONCE = "echo ran >> /data/runs; echo it has said this; exit {code}"
DATA: dict[str, Any] = {
    "volumes": [{"name": "data", "emptyDir": {}}],
}
MOUNTS = [{"name": "data", "mountPath": "/data"}]


def apply_job(world: World, script: str, *, policy: str, strategy: str = "Auto") -> None:
    container = {
        "image": world.image("counter"),
        "command": ["sh", "-c", script],
        "restartPolicy": policy,
        "volumeMounts": MOUNTS,
        "terminationGracePeriodSeconds": 1,
    }
    world.apply("job", container=container, migration={"strategy": strategy}, **DATA)


def await_phase(world: World, phase: str, *, node: str) -> dict[str, Any]:
    def there() -> bool:
        status = world.status("job")
        settled = condition(status, "Reconciling")["status"] != "True"
        return (status.get("node"), status.get("phase"), settled) == (node, phase, True)

    world.until(there, f"job is {phase} on {node}")
    return world.status("job")


def phase(migration: dict[str, Any]) -> str:
    """The phase; empty for a migration that the operator has only just created."""
    return str(migration.get("status", {}).get("phase", ""))


def runs(world: World, *, node: str) -> int:
    """How often it was started, by a file that moves with it."""
    uid = world.get("placement", "job")["metadata"]["uid"]
    path = f"/var/lib/transship/containers/{uid}/volumes/data/runs"
    return len(world.on_node(node, "cat", path).splitlines())


@pytest.mark.parametrize(
    ("policy", "code", "phase", "strategy"),
    [
        ("Never", 0, "Stopped", "Auto"),
        ("Never", 3, "Failed", "Cold"),
        ("OnFailure", 0, "Stopped", "Auto"),
    ],
)
def test_what_has_completed_is_moved_and_never_run_again(
    world: World, policy: str, code: int, phase: str, strategy: str
) -> None:
    apply_job(world, ONCE.format(code=code), policy=policy, strategy=strategy)
    before = await_phase(world, phase, node="node-a")

    world.move("job", "node-b")
    after = await_phase(world, phase, node="node-b")
    world.restart("agent:node-b")
    world.kill("node:node-b")
    world.restart("node:node-b")
    world.move("job", "node-c")
    again = await_phase(world, phase, node="node-c")

    assert before["container"]["lastExit"]["exitCode"] == code
    for status in (after, again):
        assert status["container"]["lastExit"] == before["container"]["lastExit"]
        assert status["container"]["restarts"] == 0
        assert condition(status, "Ready")["reason"] == "ContainerExited"
    assert runs(world, node="node-c") == 1
    assert world.output("job").count("it has said this") == 1
    assert sum(world.copies("job").values()) == 0

    world.patch("job", {"state": "Stopped"})
    world.until(lambda: world.status("job")["phase"] == "Stopped", "it is to be stopped")
    world.patch("job", {"state": "Running"})
    world.until(lambda: runs(world, node="node-c") == 2, "it runs when that is asked for")


def test_a_failed_move_of_what_has_completed_is_tried_again_without_running_it(
    world: World,
) -> None:
    apply_job(world, ONCE.format(code=0), policy="Never")
    await_phase(world, "Stopped", node="node-a")
    world.partition("node-a", "node-b")
    world.move("job", "node-b")
    world.until(
        lambda: any(phase(m) == "Failed" for m in world.migrations("job")),
        "a move has failed",
    )
    world.restart("operator")
    world.heal()
    await_phase(world, "Stopped", node="node-b")
    assert runs(world, node="node-b") == 1


def test_a_crash_loop_goes_on_with_its_back_off_where_it_is_moved_to(world: World) -> None:
    apply_job(world, "echo ran >> /data/runs; sleep 0.5; exit 7", policy="Always")
    world.until(
        lambda: condition(world.status("job"), "Ready")["reason"] == "CrashLoopBackOff",
        "it waits for its next start",
    )
    for node in ("node-b", "node-c", "node-a"):
        before = world.status("job")["container"]
        world.move("job", node)
        world.until(lambda: world.status("job")["node"] == node, f"it is on {node}")  # noqa: B023
        world.until(
            lambda: all("completionTime" in m.get("status", {}) for m in world.migrations("job")),
            "the move is over",
        )
        after = world.status("job")["container"]
        assert after["lastExit"]["exitCode"] == 7
        assert after["restarts"] >= before["restarts"]
    restarts = world.status("job")["container"]["restarts"]
    world.until(lambda: world.status("job")["container"]["restarts"] > restarts, "it goes on")

    moves = world.migrations("job")
    assert [m["status"]["phase"] for m in moves] == ["Succeeded"] * 3
    # the last one has been counted, or is to be counted when it ends
    assert runs(world, node="node-a") - world.status("job")["container"]["restarts"] in {0, 1}


def test_one_that_ends_while_it_is_copied_keeps_its_exit_status(world: World) -> None:
    fill = "head -c 300M /dev/urandom > /data/big; echo ran >> /data/runs"
    apply_job(world, f"{fill}; until [ -e /data/end ]; do sleep 0.1; done; exit 9", policy="Never")
    world.await_running("job", node="node-a")
    world.until(lambda: runs_or_none(world, node="node-a") == 1, "it has written its files")
    world.limit_rate("400mbit")
    world.move("job", "node-b")
    world.until(
        lambda: any(phase(m) == "Copying" for m in world.migrations("job")),
        "its files are copied",
    )
    uid = world.get("placement", "job")["metadata"]["uid"]
    world.on_node("node-a", "touch", f"/var/lib/transship/containers/{uid}/volumes/data/end")

    status = await_phase(world, "Failed", node="node-b")
    [move] = world.migrations("job")
    assert (move["status"]["phase"], move["status"]["strategy"]) == ("Succeeded", "Cold")
    assert "does not run" in move["status"]["message"]
    assert status["container"]["lastExit"]["exitCode"] == 9
    assert runs(world, node="node-b") == 1


def runs_or_none(world: World, *, node: str) -> int:
    try:
        return runs(world, node=node)
    except Exception:  # it has not written the file yet
        return 0


@contextmanager
def watched(world: World, name: str) -> Iterator[list[tuple[str, str, str]]]:
    """Collect all versions of the Ready condition: status, reason, message."""
    conditions: list[tuple[str, str, str]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL_SECONDS):
            ready = condition(world.status(name), "Ready")
            state = (ready["status"], ready["reason"], ready["message"])
            if state[:1] not in [earlier[:1] for earlier in conditions[-1:]]:
                conditions.append(state)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield conditions
    finally:
        over.set()
        watching.join()


def probe(path: str) -> dict[str, Any]:
    return {"exec": {"command": ["test", "-e", path]}, "periodSeconds": 1, "failureThreshold": 3}


def test_one_that_was_never_ready_is_not_ready_after_a_move_before_its_probe_succeeds(
    world: World,
) -> None:
    world.apply("slow", container={"readinessProbe": probe("/ready")})
    world.until(
        lambda: condition(world.status("slow"), "Ready")["reason"] == "ContainerNotReady",
        "not ready",
    )
    with watched(world, "slow") as conditions:
        for node in ("node-b", "node-a"):
            world.move("slow", node)
            world.until(lambda: world.status("slow")["node"] == node, f"it is on {node}")  # noqa: B023
            world.until(
                lambda: all(
                    "completionTime" in m.get("status", {}) for m in world.migrations("slow")
                ),
                "the move is over",
            )
        world.restart("agent:node-a")
        world.until(
            lambda: "probe failed" in condition(world.status("slow"), "Ready")["message"],
            "the probe has failed here",
        )
    assert {status for status, _, _ in conditions} <= {"False", "Unknown"}, conditions

    uid = world.get("placement", "slow")["metadata"]["uid"]
    pid = world.processes("node-a", uid)[0].split("/")[2]
    world.on_node("node-a", "touch", f"/proc/{pid}/root/ready")
    world.await_running("slow", node="node-a")


def test_one_that_is_ready_stays_ready_through_a_move(world: World) -> None:
    world.apply("quick", container={"readinessProbe": probe("/")})
    world.await_running("quick", node="node-a")
    with watched(world, "quick") as conditions:
        for node in ("node-b", "node-c", "node-a"):
            world.move("quick", node)
            world.await_running("quick", node=node)
    assert {status for status, _, _ in conditions} == {"True"}, conditions
    message = condition(world.status("quick"), "Ready")["message"]
    assert message == "the container runs and its readiness probe succeeds"


def test_no_probe_is_said_to_succeed_where_there_is_none(world: World) -> None:
    world.apply("plain", container={"image": world.image("counter")})
    status = world.await_running("plain", node="node-a")
    assert condition(status, "Ready")["message"] == "the container runs; it has no readiness probe"
