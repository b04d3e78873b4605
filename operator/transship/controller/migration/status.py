"""The status of a migration: each side's own report, and one summary derived from both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from transship.agentapi.migrations import MigrationReport
from transship.agentapi.states import SideState
from transship.api.conditions import Condition, Status, condition, with_condition, without
from transship.api.migration import (
    BlackoutPart,
    ContainerMigration,
    MigrationPhase,
    MigrationStatus,
    SideStatus,
    Step,
    StepName,
)
from transship.api.obstacle import Obstacle
from transship.api.placement import Strategy
from transship.api.progress import MOST_UNFINISHED, percent_of
from transship.api.reasons import Reason
from transship.controller.migration.history import SOURCE_FENCED
from transship.controller.migration.steps import Finish, ObservedMigration, Outcome, Side, Wait
from transship.controller.migration.steps import Step as PlanStep

_ORDER = {name: number for number, name in enumerate(StepName)}
_PHASES = {
    Outcome.SUCCEEDED: MigrationPhase.SUCCEEDED,
    Outcome.FAILED: MigrationPhase.FAILED,
    Outcome.CANCELLED: MigrationPhase.CANCELLED,
}


@dataclass(frozen=True)
class Method:
    """The strategy that is used, and why it is not the one that was asked for."""

    strategy: Strategy
    explanation: str = ""


def observed_status(
    migration: ContainerMigration,
    observed: ObservedMigration,
    step: PlanStep,
    *,
    method: Method,
    now: datetime,
) -> MigrationStatus:
    """The whole status after a pass, derived anew from what was observed."""
    previous = migration.status
    generation = migration.metadata.generation
    status = previous.model_copy(
        update={
            "observed_generation": generation,
            "start_time": previous.start_time or now,
            "strategy": _strategy(observed) or method.strategy,
            "source": _side(observed.source) or previous.source,
            "target": _side(observed.target) or previous.target,
            **_figures(previous, observed),
        }
    )
    if isinstance(step, Finish):
        return _finished(status, observed, step, method=method, generation=generation, now=now)
    why = step.why if isinstance(step, Wait) else None
    phase = phase_of(status)
    return status.model_copy(
        update={
            "phase": phase,
            "message": (why.text if why is not None else _explanation(observed, method)) or None,
            "conditions": _under_way(status, phase, why, generation=generation, now=now),
        }
    )


def with_fence(status: MigrationStatus, *, now: datetime) -> MigrationStatus:
    """Record that the source's node is fenced: its later reports do not count any more."""
    noted = condition(
        SOURCE_FENCED, True, reason=Reason.NODE_FENCED, message=Reason.NODE_FENCED.meaning, now=now
    )
    return status.model_copy(update={"conditions": with_condition(status.conditions, noted)})


def phase_of(status: MigrationStatus) -> MigrationPhase:
    """The phase of an unfinished migration, from each side's last report."""
    source = status.source.state if status.source is not None else ""
    target = status.target.state if status.target is not None else ""
    match source:
        case _ if target == SideState.RUNNING:
            return MigrationPhase.DRAINING
        case SideState.FROZEN | SideState.RELEASED | SideState.DONE:
            return MigrationPhase.HANDING_OVER
        case SideState.COPYING if _lasts(StepName.AWAIT_TURN, status.steps):
            return MigrationPhase.AWAITING_TURN
        case SideState.COPYING:
            return MigrationPhase.COPYING
        case _:
            return MigrationPhase.PREPARING if target else MigrationPhase.PENDING


def _lasts(name: StepName, steps: Iterable[Step]) -> bool:
    return any(step.name is name and step.milliseconds is None for step in steps)


def _figures(previous: MigrationStatus, observed: ObservedMigration) -> dict[str, object]:
    """What the reports measured. An older figure stays where a side no longer reports one."""
    source, target = observed.source.report, observed.target.report
    steps = _merged_steps(previous.steps, _steps(target), _steps(source))
    figures: dict[str, object] = {
        "steps": steps,
        "percent": _percent(previous, source, steps),
        "blackout_parts": _parts(source) or _parts(target) or previous.blackout_parts,
    }
    if source is None:
        return figures
    for field in ("rounds", "prediction", "memory", "bytes"):
        figures[field] = getattr(source, field) or getattr(previous, field)
    if source.blackout_microseconds is not None:
        figures["blackout_milliseconds"] = round(source.blackout_microseconds / 1000)
    return figures


def _percent(
    previous: MigrationStatus, source: MigrationReport | None, steps: Iterable[Step]
) -> int:
    """A restarted agent begins its report anew, and one side's report may be older than ours."""
    reported = percent_of(steps) if source is None else max(source.percent, percent_of(steps))
    return max(previous.percent, min(reported, MOST_UNFINISHED))


def _strategy(observed: ObservedMigration) -> Strategy | None:
    """The strategy that the source has chosen: Auto becomes another one there."""
    return None if observed.source.report is None else observed.source.report.strategy


def _explanation(observed: ObservedMigration, method: Method) -> str:
    """Why it is not the strategy that was asked for, and what the source has chosen."""
    chosen = "" if observed.source.report is None else observed.source.report.choice
    return "; ".join(part for part in (method.explanation, chosen) if part)[:4096]


def _steps(report: MigrationReport | None) -> tuple[Step, ...]:
    return () if report is None else report.steps


def _parts(report: MigrationReport | None) -> tuple[BlackoutPart, ...]:
    """Unique by name, as the list-map of the API wants them: parts of one name are added up."""
    sums: dict[str, int] = {}
    for part in () if report is None else report.blackout_parts:
        sums[part.name] = sums.get(part.name, 0) + part.microseconds
    return tuple(BlackoutPart(name=name, microseconds=us) for name, us in sums.items())


def _merged_steps(*sources: Iterable[Step]) -> tuple[Step, ...]:
    """Later sources win: where both sides time a step, the source's clock covers all of it."""
    merged = {step.name: step for steps in sources for step in steps}
    return tuple(sorted(merged.values(), key=lambda step: _ORDER[step.name]))


def _side(side: Side) -> SideStatus | None:
    report = side.report
    if report is None:
        return None
    return SideStatus(
        node=side.node,
        state=report.state,
        reason=report.reason,
        message=report.message[:4096],
        hint=report.hint[:4096],
    )


def _under_way(
    status: MigrationStatus,
    phase: MigrationPhase,
    why: Obstacle | None,
    *,
    generation: int,
    now: datetime,
) -> tuple[Condition, ...]:
    reason = why.reason if why is not None else Reason.MIGRATION_IN_PROGRESS.value
    message = why.text if why is not None else f"{phase}"
    conditions = with_condition(
        status.conditions,
        condition(
            "Succeeded",
            Status.UNKNOWN,
            reason=reason,
            message=message,
            generation=generation,
            now=now,
        ),
    )
    return with_condition(
        conditions,
        condition(
            "Reconciling", True, reason=reason, message=message, generation=generation, now=now
        ),
    )


def _finished(
    status: MigrationStatus,
    observed: ObservedMigration,
    step: Finish,
    *,
    method: Method,
    generation: int,
    now: datetime,
) -> MigrationStatus:
    good = step.outcome == Outcome.SUCCEEDED
    why = _ending(observed, step)
    message = why.text[:4096]
    conditions = with_condition(
        without(status.conditions, "Reconciling"),
        condition(
            "Succeeded", good, reason=why.reason, message=message, generation=generation, now=now
        ),
    )
    if not good:  # for kstatus, which knows no failure but Stalled
        conditions = with_condition(
            conditions,
            condition(
                "Stalled", True, reason=why.reason, message=message, generation=generation, now=now
            ),
        )
    began = status.start_time or now
    return status.model_copy(
        update={
            "conditions": conditions,
            "phase": _PHASES[step.outcome],
            "percent": 100 if good else status.percent,
            "completion_time": now,
            "total_milliseconds": max(0, round((now - began).total_seconds() * 1000)),
            "reason": why.reason[:256],
            "message": (_explanation(observed, method) if good else why.message[:4096]) or None,
            "hint": why.hint[:4096] or None,
            "log_tail": None if good else _log_tail(observed),
        }
    )


def _ending(observed: ObservedMigration, step: Finish) -> Obstacle:
    if step.why is not None:
        return step.why
    reason = {
        Outcome.SUCCEEDED: Reason.MIGRATION_SUCCEEDED,
        Outcome.FAILED: Reason.MIGRATION_FAILED,
        Outcome.CANCELLED: Reason.MIGRATION_CANCELLED,
    }[step.outcome]
    return Obstacle(reason.value, f"from {observed.source.node} to {observed.target.node}")


def _log_tail(observed: ObservedMigration) -> str | None:
    reports = (observed.source.report, observed.target.report)
    tails = [report.log_tail for report in reports if report is not None and report.log_tail]
    return tails[0][-32768:] if tails else None
