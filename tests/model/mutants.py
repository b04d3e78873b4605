"""Rules that are broken on purpose, one at a time: the explorer has to notice every one of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from model.explorer import AGAIN, BACK, POST_COPY, THERE, Bounds
from model.rules import Rules
from transship.agent.containers import decide as supervision
from transship.agent.containers.decide import Situation
from transship.agent.journal import recovery, transitions
from transship.agent.journal.record import Record
from transship.agent.journal.recovery import RecoveryStep, VerdictAction
from transship.agentapi.states import RecordState, Verdict
from transship.controller.migration import decide as migration_plan
from transship.controller.migration.steps import ObservedMigration, RecordFence, RelayVerdict, Step

EVERY_FAULT = Bounds((THERE,))
A_POST_COPY = Bounds((POST_COPY,), disks_fail=False, power_fails=False)
ONE_MOVE = Bounds((THERE,), power_fails=False)
A_RETRY = Bounds((THERE, AGAIN), disks_fail=False, power_fails=False)
A_RETURN = Bounds((THERE, BACK), disks_fail=False, power_fails=False)


def _aborts_a_release(record: Record, *, migration: str) -> Record:
    if record.state is RecordState.RELEASED and record.migration == migration:
        record = record.but(state=RecordState.FROZEN, epoch=record.epoch - 1)
    return transitions.aborted(record, migration=migration)


def _owes_always(record: Record | None, migration: str) -> bool:
    return record is not None and record.migration == migration


def _restart_thaws_a_release(record: Record) -> RecoveryStep:
    return (
        RecoveryStep.KEEP
        if record.state is RecordState.RELEASED
        else recovery.after_restart(record)
    )


def _restart_takes_frozen_for_released(record: Record) -> RecoveryStep:
    return (
        RecoveryStep.FINISH
        if record.state is RecordState.FROZEN
        else recovery.after_restart(record)
    )


def _restart_throws_a_held_copy_away(record: Record) -> RecoveryStep:
    return (
        RecoveryStep.DISCARD if record.state is RecordState.HELD else recovery.after_restart(record)
    )


def _restart_lets_a_held_copy_be(record: Record) -> RecoveryStep:
    return RecoveryStep.NONE if record.state is RecordState.HELD else recovery.after_restart(record)


def _begins_again(record: Record, **order: Any) -> Record:
    return transitions.outgoing(record.but(aborted=()), **order)


def _forgets_the_abort(record: Record, *, migration: str) -> Record:
    return transitions.aborted(record, migration=migration).but(aborted=())


def _takes_silence_for_a_release(record: Record | None, migration: str) -> Verdict:
    verdict = transitions.verdict(record, migration)
    return Verdict.RELEASED if verdict is Verdict.UNDECIDED else verdict


def _takes_no_record_for_an_abort(record: Record | None, migration: str) -> Verdict:
    verdict = transitions.verdict(record, migration)
    return Verdict.ABORTED if verdict is Verdict.UNDECIDED else verdict


def _runs_on_any_verdict(record: Record, notice: Any) -> Record:
    released = {"verdict": Verdict.RELEASED, "epoch": record.epoch}
    return transitions.running(record, notice.model_copy(update=released))


def _orders_below_the_floor(record: Record | None, order: Any, **more: Any) -> Record:
    return transitions.ordered(record, order, boot=more["boot"])


def _orders_over_a_release(record: Record | None, order: Any, **more: Any) -> Record:
    if record is not None and record.state is RecordState.RELEASED:
        return record.but(state=RecordState.RUNNING, migration=None, peer=None)
    return transitions.ordered(record, order, **more)


def _operator_concludes_from_no_record(observed: ObservedMigration) -> Step:
    """Before this model it did: a begin that was still under way then moved the container."""
    unbegun = observed.source.report is None and observed.verdict is Verdict.UNKNOWN
    if unbegun and observed.give_up is not None:
        observed = replace(observed, verdict=Verdict.ABORTED)
    return migration_plan.next_step(observed)


def _starts_without_an_order(now: Situation) -> supervision.Step:
    return supervision.next_step(replace(now, boot=now.record.ordered_boot))


def _takes_silence_for_fencing(observed: ObservedMigration) -> Step:
    if not observed.source.answered:
        observed = replace(observed, source=replace(observed.source, fenced=True))
    return migration_plan.next_step(observed)


def _does_not_write_a_fence_down(observed: ObservedMigration) -> Step:
    """Before it did: a source that came back in between was asked, and decided, once more."""
    step = migration_plan.next_step(observed)
    return RelayVerdict(Verdict.FENCED) if isinstance(step, RecordFence) else step


def _operator_does_not_wait_for_memory(observed: ObservedMigration) -> Step:
    held = observed.target.container
    if held is not None:
        whole = held.model_copy(update={"awaits_memory": False})
        observed = replace(observed, target=replace(observed.target, container=whole))
    return migration_plan.next_step(observed)


def _releases_without_memory(record: Record, **release: Any) -> Record:
    return transitions.released(record, epoch=release["epoch"])


REAL = Rules()
MUTANTS: dict[str, tuple[Rules, Bounds]] = {
    "a released copy is aborted": (
        replace(
            REAL, aborted=_aborts_a_release, owes_abort=_owes_always,
            after_restart=_restart_thaws_a_release,
        ),
        ONE_MOVE,
    ),
    "a restarted source does not finish its release": (
        replace(REAL, after_restart=_restart_thaws_a_release), ONE_MOVE,
    ),
    "a restarted source takes frozen for released": (
        replace(REAL, after_restart=_restart_takes_frozen_for_released), ONE_MOVE,
    ),
    "a restarted target throws a held copy away": (
        replace(REAL, after_restart=_restart_throws_a_held_copy_away), ONE_MOVE,
    ),
    "an aborted migration begins again": (replace(REAL, outgoing=_begins_again), ONE_MOVE),
    "an abort is not remembered": (replace(REAL, aborted=_forgets_the_abort), ONE_MOVE),
    "undecided counts as released": (
        replace(REAL, verdict=_takes_silence_for_a_release), ONE_MOVE,
    ),
    "undecided counts as aborted": (
        replace(REAL, verdict=_takes_no_record_for_an_abort), ONE_MOVE,
    ),
    "a target runs on Aborted": (
        replace(REAL, running=_runs_on_any_verdict, on_verdict=lambda _: VerdictAction.RUN),
        ONE_MOVE,
    ),
    "the operator's abort ends a held copy": (
        replace(REAL, require_unheld=lambda *_: None), ONE_MOVE,
    ),
    "an abort thaws although Released may be on the disk": (
        replace(REAL, may_run_on_unwritten=lambda *, release_tried: True), ONE_MOVE,
    ),
    "an order from before the release starts the container again": (
        replace(REAL, ordered=_orders_below_the_floor), ONE_MOVE,
    ),
    "an order wakes a released copy": (replace(REAL, ordered=_orders_over_a_release), ONE_MOVE),
    "a node that returns starts what it had without an order": (
        replace(REAL, next_instance_step=_starts_without_an_order), EVERY_FAULT,
    ),
    "a copy is destroyed before its memory has followed": (
        replace(
            REAL,
            require_memory_sent=lambda _: None,
            next_migration_step=_operator_does_not_wait_for_memory,
        ),
        A_POST_COPY,
    ),
    "a restarted source forgets that memory has to follow": (
        replace(REAL, released=_releases_without_memory), A_POST_COPY,
    ),
    "the operator takes silence for fencing": (
        replace(REAL, next_migration_step=_takes_silence_for_fencing), ONE_MOVE,
    ),
    "the operator does not write a fence down": (
        replace(REAL, next_migration_step=_does_not_write_a_fence_down), EVERY_FAULT,
    ),
    "the operator takes no record for an abort": (
        replace(REAL, next_migration_step=_operator_concludes_from_no_record), ONE_MOVE,
    ),
}  # fmt: skip
