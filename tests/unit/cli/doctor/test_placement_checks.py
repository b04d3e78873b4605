"""The doctor finds every placement that differs from its spec, and no other."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from fakes.resources import NOW, placement
from transship.api.conditions import Status, condition
from transship.cli.doctor.checks import Finding
from transship.cli.doctor.placement_checks import placement_findings


def condition_of(
    kind: str, status: Status | bool, reason: str, message: str = ""
) -> dict[str, Any]:
    return condition(kind, status, reason=reason, message=message, now=NOW).dump()


READY = condition_of("Ready", True, "ContainerReady")


def findings_of(
    *conditions: dict[str, Any], after: timedelta = timedelta(0), **fields: Any
) -> list[Finding]:
    status = {
        "observedGeneration": 1,
        "node": "node-a",
        "conditions": list(conditions),
        **fields.pop("status", {}),
    }
    return placement_findings([placement(status=status, **fields)], now=NOW + after)


NEVER: dict[str, Any] = {"container": {"image": "web", "restartPolicy": "Never"}}
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "not placed": (condition_of("Reconciling", True, "InsufficientMemory", "too much"), "too much"),
    "on an unknown node": (condition_of("Reconciling", True, "NodeNotFound", "no such"), "no such"),
    "on a cordoned node": (
        condition_of("Reconciling", True, "NodeUnschedulable", "cordoned"),
        "cordoned",
    ),
    "pull failing": (condition_of("Reconciling", True, "ImagePullFailed", "404"), "404"),
    "in back-off": (
        condition_of("Reconciling", True, "DumpFailed", "failed 1 times"),
        "failed 1 times",
    ),
    "stalled": (condition_of("Stalled", True, "BackoffLimitExceeded", "enough"), "enough"),
    "cancelled": (condition_of("Stalled", True, "MigrationCancelled", "by hand"), "by hand"),
    "node lost": (condition_of("Reconciling", True, "NodeLost", "silent"), "silent"),
    "crash looping": (condition_of("Ready", False, "CrashLoopBackOff", "status 1"), "status 1"),
    "not ready": (condition_of("Ready", False, "ContainerNotReady", "refused"), "refused"),
    "unknown": (condition_of("Ready", Status.UNKNOWN, "AgentUnreachable", "silent"), "silent"),
    "frozen unasked": (condition_of("Ready", False, "ContainerFrozen", "frozen"), "frozen"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_it_is_found_with_its_reason_and_a_remedy(case: str) -> None:
    unmet, message = BROKEN[case]
    extra = () if unmet["type"] == "Ready" else (READY,)
    [finding] = findings_of(unmet, *extra)
    assert finding.subject == "default/web"
    assert finding.problem == f"{unmet['reason']}: {message}"
    assert finding.remedy


def test_a_placement_that_meets_its_spec_is_no_finding() -> None:
    assert findings_of(READY) == []
    assert findings_of(condition_of("Ready", False, "ContainerStopped"), state="Stopped") == []
    assert findings_of(condition_of("Ready", False, "ContainerFrozen"), state="Frozen") == []
    done = condition_of("Ready", False, "ContainerExited")
    assert findings_of(done, status={"phase": "Stopped"}, **NEVER) == []
    deleted: dict[str, Any] = {"deletionTimestamp": NOW.isoformat()}
    assert findings_of(condition_of("Ready", False, "Starting"), metadata=deleted) == []


def test_a_container_that_failed_for_good_is_found() -> None:
    ended = condition_of("Ready", False, "ContainerExited", "it ended with exit code 3")
    [finding] = findings_of(ended, status={"phase": "Failed"}, **NEVER)
    assert "exit code 3" in finding.problem


@pytest.mark.parametrize("reason", ["Starting", "PullingImage", "MigrationInProgress"])
def test_normal_progress_is_found_only_after_minutes(reason: str) -> None:
    progress = condition_of("Reconciling", True, reason, "wait")
    assert findings_of(progress, READY) == []
    [finding] = findings_of(progress, READY, after=timedelta(minutes=6))
    assert finding.problem == f"{reason}: wait"


def test_a_container_that_runs_between_two_crashes_is_found_for_ten_minutes() -> None:
    exit_ = {"exitCode": 1, "time": NOW.isoformat(), "reason": "Error"}
    status = {"container": {"restarts": 4, "lastExit": exit_}}
    [finding] = findings_of(READY, status=status, after=timedelta(minutes=1))
    assert "restarted 4 times" in finding.problem
    assert "exit code 1" in finding.problem
    assert findings_of(READY, status=status, after=timedelta(minutes=11)) == []
    once = {"container": {"restarts": 1, "lastExit": exit_}}
    assert findings_of(READY, status=once) == []


def test_an_edit_that_no_operator_observes_is_found() -> None:
    [finding] = findings_of(READY, metadata={"generation": 3})
    assert "generation 3" in finding.problem
    assert "operator" in finding.remedy


def test_the_hint_is_the_remedy_and_is_not_repeated() -> None:
    hint = "write one of the names that kubectl get nodeagents shows"
    [finding] = findings_of(
        condition_of("Reconciling", True, "NodeNotFound", f'no "x" ({hint})'), READY
    )
    assert finding.problem == 'NodeNotFound: no "x"'
    assert finding.remedy == hint
