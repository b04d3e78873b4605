"""The next step before the source has released the container, or once it has kept it.

Until the release the migration can be given up, and the source decides that.
"""

from __future__ import annotations

from transship.agentapi.migrations import MigrationReport
from transship.agentapi.states import RecordState, SideState, Verdict
from transship.api.obstacle import Obstacle, obstacle
from transship.api.reasons import Reason
from transship.controller.migration.polling import (
    HANDOVER_POLL_SECONDS,
    SHORT_POLL_SECONDS,
    SILENCE_POLL_SECONDS,
    WORK_AFTER_SECONDS,
    work_poll,
)
from transship.controller.migration.steps import (
    AbortSource,
    AbortTarget,
    Begin,
    Finish,
    GiveUp,
    ObservedMigration,
    Outcome,
    Prepare,
    RelayVerdict,
    Step,
    Wait,
    no_answer,
)
from transship.controller.placement.owner import OWNING


def roll_back(observed: ObservedMigration, end: GiveUp) -> Step:
    """The source keeps the container; the target discards what it prepared."""
    target = observed.target
    if target.answered and target.report is not None and not target.report.state.finished:
        held = target.report.state == SideState.HELD
        return RelayVerdict(Verdict.ABORTED) if held else AbortTarget()
    # a silent target asks the source by itself, and is cleaned up when it answers again
    return Finish(end.outcome, end.why)


def why_source_kept(observed: ObservedMigration) -> GiveUp:
    """Why the source kept its container, from the report that explains it best."""
    if observed.give_up is not None:
        return observed.give_up
    source, target = observed.source.report, observed.target.report
    if source is not None and source.state == SideState.CANCELLED:
        return GiveUp(
            Outcome.CANCELLED,
            obstacle(Reason.MIGRATION_CANCELLED, "the source was asked to keep the container"),
        )
    for report in (source, target):
        if report is not None and report.reason:
            return GiveUp(Outcome.FAILED, _report_obstacle(report))
    if source is None and (preflight_obstacle := _preflight_obstacle(observed)) is not None:
        return preflight_obstacle
    return GiveUp(
        Outcome.FAILED,
        obstacle(
            Reason.MIGRATION_FAILED, f"the agent of {observed.source.node} kept the container"
        ),
    )


def give_up(observed: ObservedMigration, wish: GiveUp) -> Step:
    """Give up before the release: the source decides first, whatever the target does."""
    source = observed.source
    if not source.answered:
        return Wait(SILENCE_POLL_SECONDS, no_answer(source))
    if source.report is not None:
        return AbortSource()
    return _end_unbegun(observed, wish)


def _end_unbegun(observed: ObservedMigration, end: GiveUp) -> Step:
    """End a migration that the source does not know; an order to begin may still be under way.

    So the source first records that this migration never happens.
    """
    source, target = observed.source, observed.target
    held = source.container
    if held is not None and held.epoch == observed.spec.epoch and held.record in OWNING:
        return AbortSource()
    if target.state == SideState.HELD:
        return Wait(
            SILENCE_POLL_SECONDS,
            obstacle(
                Reason.MIGRATION_PENDING,
                f"{target.node} holds the container, and {source.node} has no record of its move",
                hint="nothing can be decided without the source's record",
            ),
        )
    return roll_back(observed, end)


def source_owns(observed: ObservedMigration) -> bool:
    """Whether the source owns the container at the epoch of this migration."""
    held = observed.source.container
    owned = {RecordState.RUNNING, RecordState.STOPPED}
    return held is not None and held.record in owned and held.epoch == observed.spec.epoch


def get_ready(observed: ObservedMigration) -> Step:
    """Before the source has begun: check, prepare the target, then let the source begin."""
    for side in (observed.source, observed.target):
        if not side.answered:
            return Wait(SILENCE_POLL_SECONDS, no_answer(side))
    if not source_owns(observed):
        return _end_unbegun(observed, GiveUp(Outcome.FAILED, _not_the_owner(observed)))
    return _follow_target(observed)


def _follow_target(observed: ObservedMigration) -> Step:
    match observed.target.state:
        case None:
            return _start(observed)
        case SideState.PREPARED:
            return Begin()
        case SideState.FAILED | SideState.CANCELLED:
            return _end_unbegun(observed, GiveUp(Outcome.FAILED, _why_unprepared(observed)))
        case SideState.HELD:
            # the source owns the container and has forgotten the move: it can never release it
            return AbortSource()
        case _ if observed.waiting_seconds < WORK_AFTER_SECONDS:
            return Wait(SHORT_POLL_SECONDS)
        case _:
            return Wait(work_poll(observed))


def _start(observed: ObservedMigration) -> Step:
    """Neither agent knows the migration yet."""
    preflight_obstacle = _preflight_obstacle(observed)
    return Prepare() if preflight_obstacle is None else _end_unbegun(observed, preflight_obstacle)


def _preflight_obstacle(observed: ObservedMigration) -> GiveUp | None:
    if observed.preflight_obstacle is not None:
        return GiveUp(Outcome.FAILED, observed.preflight_obstacle)
    if observed.order_is_current:
        return None
    changed = "the container's spec was changed before the move began"
    return GiveUp(Outcome.CANCELLED, obstacle(Reason.MIGRATION_SUPERSEDED, changed))


def _why_unprepared(observed: ObservedMigration) -> Obstacle:
    report = observed.target.report
    if report is not None and report.reason:
        return _report_obstacle(report)
    return obstacle(
        Reason.MIGRATION_FAILED, f"the agent of {observed.target.node} could not prepare the move"
    )


def oversee(observed: ObservedMigration) -> Step:
    """Source and target work with each other: the operator watches, and aborts a lost target."""
    source, target = observed.source, observed.target
    if source.state in {SideState.FROZEN, SideState.RELEASED}:
        return Wait(HANDOVER_POLL_SECONDS)  # the agents decide this among themselves
    if target.answered and (target.report is None or target.state == SideState.FAILED):
        return AbortSource()
    return Wait(work_poll(observed), None if target.answered else no_answer(target))


def _report_obstacle(report: MigrationReport) -> Obstacle:
    """The agent's failure, with the hint of the table of reasons where it has none."""
    table_entry = next((reason for reason in Reason if reason == report.reason), None)
    hint = report.hint or (table_entry.hint if table_entry is not None else "")
    return Obstacle(report.reason, report.message, hint)


def _not_the_owner(observed: ObservedMigration) -> Obstacle:
    held = observed.source.container
    found = "no such container" if held is None else f"one, {held.record} as epoch {held.epoch}"
    return obstacle(
        Reason.REFUSED,
        f"{observed.source.node} does not own the container as epoch {observed.spec.epoch}: it has "
        f"{found}",
    )
