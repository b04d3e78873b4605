"""The next step of a migration, from what both agents answered in this pass alone.

The source's record is the only arbiter. Silence proves nothing: an agent that does not answer may
have decided, so it is waited for, unless an administrator has fenced its node. A fence is recorded
before the target learns of it: a source that comes back then decides nothing any more. Every step
can be repeated, so the operator may be killed between any two.
"""

from __future__ import annotations

from transship.agentapi.states import RecordState, SideState, Verdict
from transship.api.obstacle import obstacle
from transship.api.reasons import Reason
from transship.controller.migration.after_release import after_fence, after_release, after_resume
from transship.controller.migration.before_release import (
    get_ready,
    give_up,
    oversee,
    roll_back,
    source_owns,
    why_source_kept,
)
from transship.controller.migration.polling import (
    HANDOVER_POLL_SECONDS,
    SILENCE_POLL_SECONDS,
    WORK_AFTER_SECONDS,
)
from transship.controller.migration.steps import (
    AbortSource,
    Finish,
    GiveUp,
    ObservedMigration,
    Outcome,
    RecordFence,
    Step,
    Wait,
    no_answer,
)


def next_step(observed: ObservedMigration) -> Step:
    """Choose the one step to take now."""
    if _target_owns(observed):
        return _dispute(observed) or after_resume(observed)
    if observed.fence_recorded or observed.source.fenced:
        return _without_source(observed)
    if observed.verdict == Verdict.RELEASED:
        return after_release(observed)
    if observed.verdict == Verdict.ABORTED or _source_is_over(observed):
        return roll_back(observed, why_source_kept(observed))
    if observed.give_up is not None:
        return give_up(observed, observed.give_up)
    if observed.source.report is None:
        return get_ready(observed)
    return oversee(observed)


def _source_is_over(observed: ObservedMigration) -> bool:
    return observed.source.state in {SideState.FAILED, SideState.CANCELLED}


def _target_owns(observed: ObservedMigration) -> bool:
    """The target reports ownership, with the one epoch that this migration can give it."""
    container = observed.target.container
    if container is not None and container.epoch != observed.spec.epoch + 1:
        return False
    if observed.target.state == SideState.RUNNING:
        return True
    return container is not None and container.record in {RecordState.RUNNING, RecordState.STOPPED}


def _dispute(observed: ObservedMigration) -> Step | None:
    """The target reports that it runs a container that the source has not released.

    For a moment that can be so by accident: the two were not asked at the same time.
    """
    if observed.fence_recorded or not observed.source.answered or _may_have_released(observed):
        return None
    why = obstacle(
        Reason.OWNER_DISPUTED,
        f"{observed.target.node} reports that it runs the container, which "
        f"{observed.source.node} has not released",
    )
    if observed.verdict == Verdict.ABORTED:
        return Finish(Outcome.FAILED, why)
    if observed.give_up is not None:
        return AbortSource()
    lasts = observed.waiting_seconds > WORK_AFTER_SECONDS
    return Wait(HANDOVER_POLL_SECONDS, why if lasts else None)


def _may_have_released(observed: ObservedMigration) -> bool:
    if observed.verdict in {Verdict.UNDECIDED, Verdict.ABORTED}:
        return False
    return observed.verdict == Verdict.RELEASED or not source_owns(observed)


def _without_source(observed: ObservedMigration) -> Step:
    """The source is fenced: a held copy goes on; without one the memory is lost."""
    target = observed.target
    if observed.fence_recorded:
        return after_fence(observed)
    if target.state == SideState.HELD:
        return RecordFence()
    if not target.answered and not target.fenced:
        return Wait(SILENCE_POLL_SECONDS, no_answer(target))
    return roll_back(
        observed,
        GiveUp(
            Outcome.FAILED,
            obstacle(
                Reason.NODE_FENCED,
                f"{observed.source.node} was fenced before the handover: what ran there is lost",
            ),
        ),
    )
