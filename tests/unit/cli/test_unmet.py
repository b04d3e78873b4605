"""Every placement that is not what its spec says is found, and no other."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from fakes.resources import NOW, placement
from transship.api.conditions import Status, condition
from transship.cli.findings import Finding
from transship.cli.unmet import placement_findings


def told(kind: str, status: Status | bool, reason: str, message: str = "") -> dict[str, Any]:
    return condition(kind, status, reason=reason, message=message, now=NOW).dump()


READY = told("Ready", True, "ContainerReady")


def found(
    *conditions: dict[str, Any], after: timedelta = timedelta(0), **words: Any
) -> list[Finding]:
    status = {
        "observedGeneration": 1, "node": "node-a", "conditions": list(conditions),
        **words.pop("status", {}),
    }  # fmt: skip
    return placement_findings([placement(status=status, **words)], now=NOW + after)


NEVER = {"container": {"image": "web", "restartPolicy": "Never"}}
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "not placed": (told("Reconciling", True, "InsufficientMemory", "too much"), "too much"),
    "on an unknown node": (told("Reconciling", True, "NodeNotFound", "no such"), "no such"),
    "on a cordoned node": (told("Reconciling", True, "NodeUnschedulable", "cordoned"), "cordoned"),
    "pull failing": (told("Reconciling", True, "ImagePullFailed", "404"), "404"),
    "in back-off": (told("Reconciling", True, "DumpFailed", "failed 1 times"), "failed 1 times"),
    "stalled": (told("Stalled", True, "BackoffLimitExceeded", "enough"), "enough"),
    "cancelled": (told("Stalled", True, "MigrationCancelled", "by hand"), "by hand"),
    "node lost": (told("Reconciling", True, "NodeLost", "silent"), "silent"),
    "crash looping": (told("Ready", False, "CrashLoopBackOff", "status 1"), "status 1"),
    "not ready": (told("Ready", False, "ContainerNotReady", "refused"), "refused"),
    "unknown": (told("Ready", Status.UNKNOWN, "AgentUnreachable", "silent"), "silent"),
    "frozen unasked": (told("Ready", False, "ContainerFrozen", "frozen"), "frozen"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_it_is_found_with_its_reason_and_a_remedy(case: str) -> None:
    said, message = BROKEN[case]
    extra = () if said["type"] == "Ready" else (READY,)
    [finding] = found(said, *extra)
    assert finding.subject == "default/web"
    assert finding.problem == f"{said['reason']}: {message}"
    assert finding.remedy


def test_what_is_as_it_should_be_is_left_alone() -> None:
    assert found(READY) == []
    assert found(told("Ready", False, "ContainerStopped"), state="Stopped") == []
    assert found(told("Ready", False, "ContainerFrozen"), state="Frozen") == []
    done = told("Ready", False, "ContainerExited")
    assert found(done, status={"phase": "Stopped"}, **NEVER) == []
    deleted = {"deletionTimestamp": NOW.isoformat()}
    assert found(told("Ready", False, "Starting"), metadata=deleted) == []


def test_a_container_that_failed_for_good_is_found() -> None:
    ended = told("Ready", False, "ContainerExited", "it ended with exit code 3")
    [finding] = found(ended, status={"phase": "Failed"}, **NEVER)
    assert "exit code 3" in finding.problem


@pytest.mark.parametrize("reason", ["Starting", "PullingImage", "MigrationInProgress"])
def test_what_takes_its_time_is_found_only_after_minutes(reason: str) -> None:
    going_on = told("Reconciling", True, reason, "wait")
    assert found(going_on, READY) == []
    [finding] = found(going_on, READY, after=timedelta(minutes=6))
    assert finding.problem == f"{reason}: wait"


def test_a_container_that_runs_between_two_crashes_is_found_and_forgiven_later() -> None:
    exit_ = {"exitCode": 1, "time": NOW.isoformat(), "reason": "Error"}
    status = {"container": {"restarts": 4, "lastExit": exit_}}
    [finding] = found(READY, status=status, after=timedelta(minutes=1))
    assert "started again 4 times" in finding.problem
    assert "exit code 1" in finding.problem
    assert found(READY, status=status, after=timedelta(minutes=11)) == []
    once = {"container": {"restarts": 1, "lastExit": exit_}}
    assert found(READY, status=once) == []


def test_an_edit_that_no_operator_takes_up_is_found() -> None:
    [finding] = found(READY, metadata={"generation": 3})
    assert "generation 3" in finding.problem
    assert "operator" in finding.remedy


def test_the_hint_is_the_remedy_and_is_not_said_twice() -> None:
    hint = "write one of the names that kubectl get nodeagents shows"
    [finding] = found(told("Reconciling", True, "NodeNotFound", f'no "x" ({hint})'), READY)
    assert finding.problem == 'NodeNotFound: no "x"'
    assert finding.remedy == hint
