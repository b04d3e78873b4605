"""Runs one case: move a witness under a client, inject the fault, recover, check the invariants."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from faults.cases import Case
from transship.api.migration import MigrationPhase, MigrationStatus, StepName
from transship.api.placement import Strategy
from transship.api.reasons import Reason
from transship.common.errors import TransshipError
from transship.lab.proof import failpoints, fault_injection, invariants, observed_lab
from transship.lab.proof.counter_client import CounterClient
from transship.lab.proof.fault import Move, NotTriggered, Outcome, Side
from transship.lab.proof.fault_catalog import OPERATOR_SERVICE
from transship.lab.proof.invariants import until_none
from transship.lab.proof.observed_lab import ObservedLab
from transship.lab.proof.single_copy import SingleCopyMonitor
from transship.lab.proof.workload import Workload, query_witness, witness_placement
from transship.lab.state import lab_dir

START_TIMEOUT_SECONDS = 30.0
FAILPOINT_TIMEOUT_SECONDS = 40.0
END_TIMEOUT_SECONDS = 60.0
# after a long partition, TCP retransmits only after as long again
SETTLE_TIMEOUT_SECONDS = 60.0
CLEANUP_TIMEOUT_SECONDS = 20.0
REPLIES_BEFORE_THE_MOVE = 50

# of a target that owned the container and restarts it
LOST = Reason.CONTAINER_LOST


class NotReached(TransshipError):
    """The move did not reach the step, so the case proves nothing."""


@dataclass(frozen=True)
class Result:
    case: Case
    result: Literal["ok", "violated", "not reached"]
    detail: str

    @property
    def ok(self) -> bool:
        return self.result == "ok"


def run(lab: ObservedLab, case: Case, *, name: str, source: str, target: str) -> Result:
    """Move `name` from source to target under the case's fault, and delete it at the end."""
    began = time.monotonic()
    try:
        with _running_workload(lab, name, node=source, strategy=case.strategy) as workload:
            findings, summary = _move_with_fault(lab, workload, case, source=source, target=target)
        findings += _remove(lab, workload)
    except NotReached as e:
        _remove(lab, Workload(name))
        return Result(case, "not reached", e.message)
    spent = f"{time.monotonic() - began:.1f} s"
    if findings:
        return Result(case, "violated", "; ".join(findings[:6]) + f" ({summary}, {spent})")
    return Result(case, "ok", f"{summary}, {spent}")


@contextmanager
def _running_workload(
    lab: ObservedLab, name: str, *, node: str, strategy: Strategy
) -> Iterator[Workload]:
    """A witness that runs, with a client that has received replies for a while."""
    workload = Workload(name)
    placement = witness_placement(lab.state, name, node=node, strategy=strategy, retries=False)
    lab.resources.create(placement)
    try:
        observed_lab.await_running(lab, workload, node=node)
    except TransshipError as e:
        raise NotReached(e.message) from e
    workload.run = query_witness(workload.address).run
    with CounterClient(workload.address) as workload.client:
        until_none(lambda: _too_few_replies(workload), seconds=START_TIMEOUT_SECONDS)
        yield workload


def _too_few_replies(workload: Workload) -> list[str]:
    enough = workload.client is not None and workload.client.number >= REPLIES_BEFORE_THE_MOVE
    return [] if enough else ["the client has received too few replies"]


def _move_with_fault(
    lab: ObservedLab, workload: Workload, case: Case, *, source: str, target: str
) -> tuple[list[str], str]:
    directory = lab_dir(lab.state.name)
    move = Move(lab.resources, directory, workload.name, workload.container, source, target)
    with SingleCopyMonitor(lab.state, [workload.container]) as monitor:
        _inject(move, case)
        findings, summary = _aftermath(lab, workload, case, move)
    return [
        *findings,
        *(f"two copies ran: {violation}" for violation in monitor.violations),
    ], summary


def _inject(move: Move, case: Case) -> None:
    side, failpoint = case.failpoint
    node = move.node(side)
    failpoints.arm(move.directory, node, failpoint)
    try:
        move.resources.edit(move.placement, {"targetNode": move.target})
        try:
            failpoints.await_reached(
                move.directory, node, failpoint, timeout_seconds=FAILPOINT_TIMEOUT_SECONDS
            )
        except TransshipError as e:
            raise NotReached(f"{e.message}; {_migration_report(move)}") from e
        case.fault.inject(move)
        # a part of the fault, not a wait for something
        time.sleep(case.fault.lead_seconds)
    finally:
        failpoints.disarm(move.directory, node)
    try:
        # the duration of the fault, not a wait for something
        time.sleep(case.fault.duration_seconds)
    finally:
        _recover(move, case)


def _migration_report(move: Move) -> str:
    """Phase, reason and message of the newest migration."""
    migrations = move.resources.migrations(move.placement)
    if not migrations:
        return "there is no migration"
    status = migrations[-1].status
    return f"{status.phase} {status.reason or ''} {status.message or ''}"


def _recover(move: Move, case: Case) -> None:
    try:
        case.fault.recover(move)
    except NotTriggered as e:
        raise NotReached(e.message) from e


def _aftermath(
    lab: ObservedLab, workload: Workload, case: Case, move: Move
) -> tuple[list[str], str]:
    """The violations after the recovery, and a few words on how the move ended."""
    if case.fault.outcome is Outcome.DELETED:
        return [], "deleted"
    workload.may_restart = case.loses_the_container
    findings = until_none(lambda: _unfinished(lab, workload, move), seconds=END_TIMEOUT_SECONDS)
    if findings:
        return findings, "it did not end"
    node = _expected_node(lab, workload, move)
    summary = f"{_ending(lab, workload)} on {'target' if node == move.target else 'source'}"
    findings = _outcome_violations(case, at_target=node == move.target)
    # the case ends the move: a failed one is not tried again
    lab.resources.edit(workload.name, {"targetNode": node})
    findings += until_none(
        lambda: invariants.violations(lab.resources, lab.state, workload, node=node),
        seconds=SETTLE_TIMEOUT_SECONDS,
    )
    if case.fault.may_lose_memory:
        findings += _restart_report_violations(lab, workload)
    others = [other for other in lab.state.nodes if other != node]
    findings += until_none(
        lambda: [item for other in others for item in lab.leftovers(other)],
        seconds=CLEANUP_TIMEOUT_SECONDS,
    )
    return findings, summary


def _unfinished(lab: ObservedLab, workload: Workload, move: Move) -> list[str]:
    """Restart services that have ended, and report migrations under way."""
    services = (OPERATOR_SERVICE, move.agent(Side.SOURCE), move.agent(Side.TARGET))
    fault_injection.restart_ended(move.directory, move.state, services)
    return invariants.unfinished_migrations(lab.resources, workload)


def _expected_node(lab: ObservedLab, workload: Workload, move: Move) -> str:
    """The node by the migration's result, or by the placement if the migration was deleted."""
    if finished := _finished(lab, workload):
        moved = finished[-1].phase is MigrationPhase.SUCCEEDED
        return move.target if moved or finished[-1].reason == LOST else move.source
    placement = lab.resources.placement(workload.name)
    assert placement is not None
    return placement.status.node or move.source


def _ending(lab: ObservedLab, workload: Workload) -> str:
    finished = _finished(lab, workload)
    return f"{finished[-1].phase} ({finished[-1].reason})" if finished else "migration gone"


def _finished(lab: ObservedLab, workload: Workload) -> list[MigrationStatus]:
    """A move back that follows a late cancellation is not finished yet, and does not count."""
    statuses = [migration.status for migration in lab.resources.migrations(workload.name)]
    return [status for status in statuses if status.phase is not None and status.phase.finished]


def _outcome_violations(case: Case, *, at_target: bool) -> list[str]:
    if case.released and not at_target:
        return ["the source released it, but it did not end at the target"]
    # an agent that waits at Decide writes its verdict before it sees the cancellation
    in_time = not case.released and case.step is not StepName.DECIDE
    if case.fault.outcome is Outcome.AT_SOURCE and in_time and at_target:
        return ["it was cancelled before the release, but moved"]
    return []


def _restart_report_violations(lab: ObservedLab, workload: Workload) -> list[str]:
    """The migration reports ContainerLost if, and only if, the program was restarted."""
    reported = lab.resources.migrations(workload.name)[-1].status.reason == LOST
    restarted = query_witness(workload.address).run != workload.run
    if restarted is reported:
        return []
    return [f"restarted: {restarted}, reported by the migration: {reported}"]


def _remove(lab: ObservedLab, workload: Workload) -> list[str]:
    lab.resources.delete(workload.name)
    findings = until_none(
        lambda: invariants.remaining(lab.resources, workload), seconds=END_TIMEOUT_SECONDS
    )
    if findings:
        return findings
    return until_none(lab.all_leftovers, seconds=CLEANUP_TIMEOUT_SECONDS)
