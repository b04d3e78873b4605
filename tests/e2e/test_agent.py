"""One agent and its containers, driven through its API, and killed in between."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_client import AgentClient, Workload

from transship.agentapi import paths
from transship.agentapi.containers import ContainerReports
from transship.agentapi.states import RecordState, RunState
from transship.api.placement import DesiredState
from transship.common.processes import run_blocking
from transship.lab.nodes.namespace_nodes import enter_words
from transship.lab.proof import fault_injection
from transship.lab.state import LabState, lab_dir

pytestmark = pytest.mark.lab

NODE = "node-a"
MakeWorkload = Callable[..., Workload]


@pytest.fixture
def client(lab: LabState, tmp_path: Path) -> AgentClient:
    return AgentClient(lab, tmp_path)


@pytest.fixture
def workload(lab: LabState, client: AgentClient) -> Iterator[Workload]:
    """A container that only the test knows, with an address at the end of the pool."""
    network = str(lab.address(NODE)).rsplit(".", 2)[0]
    new = Workload(client, lab, node=NODE, address=f"{network}.255.{os.getpid() % 200 + 1}")
    yield new
    new.until_gone()


def in_node(lab: LabState, *words: str) -> str:
    return run_blocking([*enter_words(lab_dir(lab.name), NODE), *words]).stdout


def kill(lab: LabState, kind: str) -> None:
    fault_injection.kill(
        lab_dir(lab.name), lab, fault_injection.parse_target(f"{kind}:{NODE}", lab)
    )


def restart(lab: LabState, kind: str) -> None:
    fault_injection.restart(
        lab_dir(lab.name), lab, fault_injection.parse_target(f"{kind}:{NODE}", lab)
    )


def test_a_container_is_started_reached_and_deleted(lab: LabState, workload: Workload) -> None:
    listed_before = in_node(lab, "ip", "link")
    first = workload.apply(workload.order())
    assert first.record is RecordState.RUNNING
    report = workload.until_running()
    assert report.image_digest is not None
    assert workload.count() == 1
    assert workload.count() == 2

    workload.delete()
    workload.until_gone()
    assert workload.read().status == 404
    state = Path("/var/lib/transship")
    left = in_node(lab, "find", str(state), "/run/transship", "-name", f"*{workload.id}*")
    assert left == ""
    assert workload.address not in in_node(lab, "ip", "route")
    assert in_node(lab, "ip", "link") == listed_before


def test_a_container_runs_on_while_its_agent_is_killed_and_started_again(
    lab: LabState, workload: Workload
) -> None:
    workload.apply(workload.order())
    before = workload.until_running()
    assert workload.count() == 1
    for _ in range(3):
        kill(lab, "agent")
        assert workload.count() > 1  # also without its agent
        restart(lab, "agent")
        after = workload.until_running()
        assert (after.restarts, after.start_time) == (0, before.start_time)


def test_an_agent_killed_at_any_moment_of_a_start_ends_up_with_one_running_container(
    lab: LabState, workload: Workload
) -> None:
    workload.apply(workload.order())
    workload.until_running()
    workload.delete()
    workload.until_gone()
    for milliseconds in (5, 30, 60, 90, 120, 160, 200, 260, 330, 400):
        workload.apply(workload.order())
        time.sleep(milliseconds / 1000)  # the moment of the kill is what this test varies
        kill(lab, "agent")
        restart(lab, "agent")
        workload.until_running()
        assert workload.count() == 1
        listed = in_node(lab, "runc", "--root", "/run/transship/runc", "list", "--quiet")
        assert listed.split().count(workload.id) == 1
        workload.delete()
        workload.until_gone()


def test_a_container_that_ends_is_restarted_and_its_exit_code_is_reported(
    workload: Workload,
) -> None:
    script = "echo hello from $0; sleep 0.3; exit 7"
    workload.apply(workload.order(command=["sh", "-c", script], restartPolicy="Always"))
    report = workload.until(lambda r: r.restarts == 1, what="it was restarted")
    assert report.last_exit is not None
    assert (report.last_exit.exit_code, report.last_exit.reason) == (7, "Error")
    report = workload.until(lambda r: r.reason == "CrashLoopBackOff", what="it waits")
    assert report.restarts == 2
    assert workload.log() == "hello from sh\n" * 2


def test_an_exit_while_the_agent_is_away_is_found(lab: LabState, workload: Workload) -> None:
    order = workload.order(command=["sh", "-c", "sleep 1; exit 5"], restartPolicy="Never")
    workload.apply(order)
    workload.until_running()
    kill(lab, "agent")
    time.sleep(1.2)  # its end
    restart(lab, "agent")
    report = workload.until(lambda r: r.record is RecordState.STOPPED, what="its end is known")
    assert report.last_exit is not None
    assert report.last_exit.exit_code == 5
    workload.apply(order)
    report = workload.until(
        lambda r: r.run is RunState.ABSENT, what="what is left of it is cleared"
    )
    assert report.record is RecordState.STOPPED


def test_stop_sends_the_stop_signal_and_kills_after_the_grace_period(workload: Workload) -> None:
    polite = "trap 'echo goodbye; exit 0' TERM; while :; do sleep 0.05; done"
    workload.apply(workload.order(command=["sh", "-c", polite]))
    workload.until_running()
    workload.apply(workload.order(command=["sh", "-c", polite], state=DesiredState.STOPPED))
    report = workload.until(lambda r: r.record is RecordState.STOPPED, what="it stopped")
    assert report.last_exit is not None
    assert report.last_exit.exit_code == 0
    assert "goodbye" in workload.log()

    deaf: dict[str, Any] = {"command": ["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"],
            "terminationGracePeriodSeconds": 1}  # fmt: skip
    workload.apply(workload.order(**deaf))
    workload.until_running()
    workload.apply(workload.order(**deaf, state=DesiredState.STOPPED))
    report = workload.until(lambda r: r.record is RecordState.STOPPED, what="it was killed")
    assert report.last_exit is not None
    assert report.last_exit.exit_code == 137


def test_frozen_it_stands_still_and_thawed_it_goes_on(workload: Workload) -> None:
    workload.apply(workload.order())
    workload.until_running()
    assert workload.count() == 1
    workload.apply(workload.order(state=DesiredState.FROZEN))
    workload.until(lambda r: r.run is RunState.FROZEN, what="it is frozen")
    with pytest.raises(TimeoutError):
        workload.count()
    workload.apply(workload.order())
    workload.until_running()
    assert workload.count() > 1


def test_after_a_power_cut_it_waits_for_the_operator_and_keeps_its_files(
    lab: LabState, workload: Workload
) -> None:
    workload.apply(workload.order(env=[{"name": "WRITE_FILE", "value": "/kept"}]))
    workload.until_running()
    kill(lab, "node")
    restart(lab, "node")
    report = workload.until(lambda r: r.reason == "AwaitingOrder", what="it waits for the operator")
    assert report.run is RunState.ABSENT
    assert report.last_exit is not None
    assert report.last_exit.reason == "NodeRestarted"

    workload.apply(workload.order(env=[{"name": "WRITE_FILE", "value": "/kept"}]))
    assert workload.until_running().restarts == 1
    assert workload.count() == 1  # its memory is gone


def test_probes_restart_it_and_say_whether_it_is_ready(lab: LabState, workload: Workload) -> None:
    command = ["sh", "-c", "touch /alive; sleep 1000"]
    liveness = {"exec": {"command": ["test", "-e", "/alive"]}, "periodSeconds": 1,
                "failureThreshold": 1}  # fmt: skip
    readiness = {"exec": {"command": ["test", "-e", "/ready"]}, "periodSeconds": 1}
    workload.apply(
        workload.order(command=command, livenessProbe=liveness, readinessProbe=readiness)
    )
    report = workload.until(lambda r: r.reason == "ContainerNotReady", what="it is not ready")
    assert not report.ready
    enter = ["runc", "--root", "/run/transship/runc", "exec", workload.id]
    in_node(lab, *enter, "touch", "/ready")
    workload.until(lambda r: r.ready, what="it is ready")
    in_node(lab, *enter, "rm", "/alive")
    workload.until(lambda r: r.restarts == 1, what="it is restarted")


def test_an_image_or_a_command_that_does_not_exist_is_reported(workload: Workload) -> None:
    workload.apply(workload.order(image="nothing:1"))
    report = workload.until(lambda r: r.reason == "ImagePullFailed", what="the pull failed")
    assert "nothing" in report.message
    workload.apply(workload.order(command=["/no/such/program"]))
    report = workload.until(lambda r: r.reason == "ContainerStartFailed", what="the start failed")
    assert "no such" in report.message.lower()
    workload.apply(workload.order())
    workload.until_running()


def test_an_agent_does_not_obey_another_agent(
    lab: LabState, tmp_path: Path, workload: Workload
) -> None:
    workload.apply(workload.order())
    other = AgentClient(lab, tmp_path, name="transship:agent:node-b")
    answer = other.call(NODE, "DELETE", f"{paths.CONTAINER.format(id=workload.id)}?epoch=1")
    assert (answer.status, answer.failure.reason) == (403, "Forbidden")


def test_a_damaged_record_is_put_aside_and_the_others_live_on(
    lab: LabState, workload: Workload, client: AgentClient
) -> None:
    workload.apply(workload.order())
    workload.until_running()
    kill(lab, "agent")
    journal = "/var/lib/transship/journal"
    in_node(lab, "cp", f"{journal}/{workload.id}.json", "/root/kept.json")
    in_node(lab, "truncate", "--size=100", f"{journal}/{workload.id}.json")
    restart(lab, "agent")
    answer = client.call(NODE, "PUT", paths.CONTAINER.format(id=workload.id), body=workload.order())
    assert (answer.status, answer.failure.reason) == (409, "Quarantined")
    assert workload.count() >= 1  # nobody touched it
    listed = client.call(NODE, "GET", paths.CONTAINERS).text
    assert workload.id not in [
        c.id for c in ContainerReports.model_validate_json(listed).containers
    ]

    kill(lab, "agent")
    in_node(lab, "rm", "--recursive", f"{journal}/quarantine")
    in_node(lab, "mv", "/root/kept.json", f"{journal}/{workload.id}.json")
    restart(lab, "agent")
    workload.until_running()
