"""One agent and its containers, spoken to as the operator speaks to it, and killed in between."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_client import AgentClient, Guest

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
MakeGuest = Callable[..., Guest]


@pytest.fixture
def client(lab: LabState, tmp_path: Path) -> AgentClient:
    return AgentClient(lab, tmp_path)


@pytest.fixture
def guest(lab: LabState, client: AgentClient) -> Iterator[Guest]:
    """A container that nobody but the test knows, at the pool's far end."""
    network = str(lab.address(NODE)).rsplit(".", 2)[0]
    made = Guest(client, lab, node=NODE, address=f"{network}.255.{os.getpid() % 200 + 1}")
    yield made
    made.until_gone()


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


def test_a_container_is_started_reached_and_deleted(lab: LabState, guest: Guest) -> None:
    listed_before = in_node(lab, "ip", "link")
    first = guest.apply(guest.order())
    assert first.record is RecordState.RUNNING
    report = guest.until_running()
    assert report.image_digest is not None
    assert guest.count() == 1
    assert guest.count() == 2

    guest.delete()
    guest.until_gone()
    assert guest.read().status == 404
    state = Path("/var/lib/transship")
    left = in_node(lab, "find", str(state), "/run/transship", "-name", f"*{guest.id}*")
    assert left == ""
    assert guest.address not in in_node(lab, "ip", "route")
    assert in_node(lab, "ip", "link") == listed_before


def test_a_container_runs_on_while_its_agent_is_killed_and_started_again(
    lab: LabState, guest: Guest
) -> None:
    guest.apply(guest.order())
    before = guest.until_running()
    assert guest.count() == 1
    for _ in range(3):
        kill(lab, "agent")
        assert guest.count() > 1  # also without its agent
        restart(lab, "agent")
        after = guest.until_running()
        assert (after.restarts, after.start_time) == (0, before.start_time)


def test_an_agent_killed_at_any_moment_of_a_start_ends_up_with_one_running_container(
    lab: LabState, guest: Guest
) -> None:
    guest.apply(guest.order())
    guest.until_running()
    guest.delete()
    guest.until_gone()
    for milliseconds in (5, 30, 60, 90, 120, 160, 200, 260, 330, 400):
        guest.apply(guest.order())
        time.sleep(milliseconds / 1000)  # the moment of the kill is what this test varies
        kill(lab, "agent")
        restart(lab, "agent")
        guest.until_running()
        assert guest.count() == 1
        listed = in_node(lab, "runc", "--root", "/run/transship/runc", "list", "--quiet")
        assert listed.split().count(guest.id) == 1
        guest.delete()
        guest.until_gone()


def test_a_container_that_ends_is_started_again_with_its_exit_code_told(guest: Guest) -> None:
    script = "echo hello from $0; sleep 0.3; exit 7"
    guest.apply(guest.order(command=["sh", "-c", script], restartPolicy="Always"))
    report = guest.until(lambda r: r.restarts == 1, what="it was restarted")
    assert report.last_exit is not None
    assert (report.last_exit.exit_code, report.last_exit.reason) == (7, "Error")
    report = guest.until(lambda r: r.reason == "CrashLoopBackOff", what="it waits")
    assert report.restarts == 2
    assert guest.log() == "hello from sh\n" * 2


def test_an_exit_while_the_agent_is_away_is_found(lab: LabState, guest: Guest) -> None:
    order = guest.order(command=["sh", "-c", "sleep 1; exit 5"], restartPolicy="Never")
    guest.apply(order)
    guest.until_running()
    kill(lab, "agent")
    time.sleep(1.2)  # its end
    restart(lab, "agent")
    report = guest.until(lambda r: r.record is RecordState.STOPPED, what="its end is known")
    assert report.last_exit is not None
    assert report.last_exit.exit_code == 5
    guest.apply(order)
    report = guest.until(lambda r: r.run is RunState.ABSENT, what="what is left of it is cleared")
    assert report.record is RecordState.STOPPED


def test_stop_sends_the_stop_signal_and_kills_after_the_grace_period(guest: Guest) -> None:
    polite = "trap 'echo goodbye; exit 0' TERM; while :; do sleep 0.05; done"
    guest.apply(guest.order(command=["sh", "-c", polite]))
    guest.until_running()
    guest.apply(guest.order(command=["sh", "-c", polite], state=DesiredState.STOPPED))
    report = guest.until(lambda r: r.record is RecordState.STOPPED, what="it stopped")
    assert report.last_exit is not None
    assert report.last_exit.exit_code == 0
    assert "goodbye" in guest.log()

    deaf: dict[str, Any] = {"command": ["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"],
            "terminationGracePeriodSeconds": 1}  # fmt: skip
    guest.apply(guest.order(**deaf))
    guest.until_running()
    guest.apply(guest.order(**deaf, state=DesiredState.STOPPED))
    report = guest.until(lambda r: r.record is RecordState.STOPPED, what="it was killed")
    assert report.last_exit is not None
    assert report.last_exit.exit_code == 137


def test_frozen_it_stands_still_and_thawed_it_goes_on(guest: Guest) -> None:
    guest.apply(guest.order())
    guest.until_running()
    assert guest.count() == 1
    guest.apply(guest.order(state=DesiredState.FROZEN))
    guest.until(lambda r: r.run is RunState.FROZEN, what="it is frozen")
    with pytest.raises(TimeoutError):
        guest.count()
    guest.apply(guest.order())
    guest.until_running()
    assert guest.count() > 1


def test_after_a_power_cut_it_waits_for_the_operator_and_keeps_its_files(
    lab: LabState, guest: Guest
) -> None:
    guest.apply(guest.order(env=[{"name": "WRITE_FILE", "value": "/kept"}]))
    guest.until_running()
    kill(lab, "node")
    restart(lab, "node")
    report = guest.until(lambda r: r.reason == "AwaitingOrder", what="it waits for the operator")
    assert report.run is RunState.ABSENT
    assert report.last_exit is not None
    assert report.last_exit.reason == "NodeRestarted"

    guest.apply(guest.order(env=[{"name": "WRITE_FILE", "value": "/kept"}]))
    assert guest.until_running().restarts == 1
    assert guest.count() == 1  # its memory is gone


def test_probes_restart_it_and_say_whether_it_is_ready(lab: LabState, guest: Guest) -> None:
    command = ["sh", "-c", "touch /alive; sleep 1000"]
    liveness = {"exec": {"command": ["test", "-e", "/alive"]}, "periodSeconds": 1,
                "failureThreshold": 1}  # fmt: skip
    readiness = {"exec": {"command": ["test", "-e", "/ready"]}, "periodSeconds": 1}
    guest.apply(guest.order(command=command, livenessProbe=liveness, readinessProbe=readiness))
    report = guest.until(lambda r: r.reason == "ContainerNotReady", what="it is not ready")
    assert not report.ready
    enter = ["runc", "--root", "/run/transship/runc", "exec", guest.id]
    in_node(lab, *enter, "touch", "/ready")
    guest.until(lambda r: r.ready, what="it is ready")
    in_node(lab, *enter, "rm", "/alive")
    guest.until(lambda r: r.restarts == 1, what="it is restarted")


def test_an_image_that_does_not_exist_and_a_command_that_does_not_are_told(guest: Guest) -> None:
    guest.apply(guest.order(image="nothing:1"))
    report = guest.until(lambda r: r.reason == "ImagePullFailed", what="the pull failed")
    assert "nothing" in report.message
    guest.apply(guest.order(command=["/no/such/program"]))
    report = guest.until(lambda r: r.reason == "ContainerStartFailed", what="the start failed")
    assert "no such" in report.message.lower()
    guest.apply(guest.order())
    guest.until_running()


def test_an_agent_does_not_obey_another_agent(lab: LabState, tmp_path: Path, guest: Guest) -> None:
    guest.apply(guest.order())
    other = AgentClient(lab, tmp_path, name="transship:agent:node-b")
    answer = other.call(NODE, "DELETE", f"{paths.CONTAINER.format(id=guest.id)}?epoch=1")
    assert (answer.status, answer.failure.reason) == (403, "Forbidden")


def test_a_damaged_record_is_put_aside_and_the_others_live_on(
    lab: LabState, guest: Guest, client: AgentClient
) -> None:
    guest.apply(guest.order())
    guest.until_running()
    kill(lab, "agent")
    journal = "/var/lib/transship/journal"
    in_node(lab, "cp", f"{journal}/{guest.id}.json", "/root/kept.json")
    in_node(lab, "truncate", "--size=100", f"{journal}/{guest.id}.json")
    restart(lab, "agent")
    answer = client.call(NODE, "PUT", paths.CONTAINER.format(id=guest.id), body=guest.order())
    assert (answer.status, answer.failure.reason) == (409, "Quarantined")
    assert guest.count() >= 1  # nobody touched it
    listed = client.call(NODE, "GET", paths.CONTAINERS).text
    assert guest.id not in [c.id for c in ContainerReports.model_validate_json(listed).containers]

    kill(lab, "agent")
    in_node(lab, "rm", "--recursive", f"{journal}/quarantine")
    in_node(lab, "mv", "/root/kept.json", f"{journal}/{guest.id}.json")
    restart(lab, "agent")
    guest.until_running()
