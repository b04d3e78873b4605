"""The next step after the source has released the container: past the point of no return."""

from __future__ import annotations

from transship import strategies
from transship.agentapi.states import RunState, SideState, Verdict
from transship.api.obstacle import Obstacle, obstacle
from transship.api.reasons import Reason
from transship.controller.migration.polling import (
    HANDOVER_POLL_SECONDS,
    SHORT_POLL_SECONDS,
    SILENCE_POLL_SECONDS,
)
from transship.controller.migration.steps import (
    AbortTarget,
    Finish,
    LoseMemory,
    ObservedMigration,
    Outcome,
    RelayVerdict,
    Side,
    Step,
    Wait,
    no_answer,
)

# The source brings the verdict itself; only a target without it for this long is told.
RELAY_AFTER_SECONDS = 0.3
# How long a success waits for the last figures of the source and the end of its frozen copy.
SOURCE_END_TIMEOUT_SECONDS = 3.0


def after_fence(observed: ObservedMigration) -> Step:
    """The source is fenced and the target owns. Where it has no copy left, it starts anew there."""
    report = observed.target.report
    if observed.target.state == SideState.HELD:
        return RelayVerdict(Verdict.FENCED)
    if report is not None and not report.state.finished:
        # a late order had it prepare again, for images that never come
        return AbortTarget()
    return after_release(observed)


def after_resume(observed: ObservedMigration) -> Step:
    """The container runs on the target, and the source has to end its frozen copy."""
    source, report = observed.source, observed.target.report
    if report is not None and report.reason == Reason.CONTAINER_LOST:
        return Finish(Outcome.FAILED, obstacle(Reason.CONTAINER_LOST, report.message))
    if _awaits_memory(observed):
        if (cause := _cause_of_loss(source)) is not None:
            return LoseMemory(_memory_lost(observed, cause))
        return Wait(HANDOVER_POLL_SECONDS, _awaits_rest_of_memory(observed))
    ending = source.state is not None and source.state != SideState.DONE
    if (ending or not source.answered) and observed.waiting_seconds < SOURCE_END_TIMEOUT_SECONDS:
        return Wait(SHORT_POLL_SECONDS)
    return Finish(Outcome.SUCCEEDED)


def _awaits_memory(observed: ObservedMigration) -> bool:
    """Whether pages that only the source has are still to come, after a post-copy."""
    container, report = observed.target.container, observed.source.report
    strategy = None if report is None else report.strategy
    follows = strategy is None or strategies.of(strategy).memory_follows
    return container is not None and container.awaits_memory and follows


def _cause_of_loss(source: Side) -> str | None:
    """Why the source can never send the rest of the memory; None as long as it may.

    Whether anything is missing is the target's to judge: a copy that lacks nothing runs on.
    """
    if source.fenced:
        return f"{source.node} is fenced"
    if not source.answered:
        return None
    container, report = source.container, source.report
    if report is not None and report.reason == Reason.PAGES_LOST:
        return f"{source.node} cannot read it any more"
    if container is None:
        forgotten = f"{source.node} knows nothing of the container any more"
        return forgotten if report is None else None
    return _cause_of_end(source.node, container.run) if container.owes_memory else None


def _cause_of_end(node: str, run: RunState) -> str | None:
    """Why the frozen copy is gone; None while it is there."""
    match run:
        case RunState.ABSENT:
            return f"{node} was restarted, or has lost the frozen copy"
        case RunState.EXITED:
            return f"the frozen copy on {node} has ended"
        case _:
            return None


def _memory_lost(observed: ObservedMigration, cause: str) -> str:
    return (
        f"memory that had not followed the container to {observed.target.node} yet is lost, since "
        f"{cause}: it is started anew there"
    )


def _awaits_rest_of_memory(observed: ObservedMigration) -> Obstacle:
    source, target = observed.source.node, observed.target.node
    if observed.source.answered:
        return obstacle(
            Reason.AWAITING_MEMORY,
            f"the container is on {target} and gets the rest of its memory from {source}",
        )
    return obstacle(
        Reason.MEMORY_UNREACHABLE,
        f"the container is on {target} and waits for memory that {source} still has; the agent of "
        f"{source} does not answer",
    )


def after_release(observed: ObservedMigration) -> Step:
    """The source has released: only the target can end the migration now."""
    target = observed.target
    if target.fenced or (target.answered and _target_lost(observed)):
        return Finish(
            Outcome.FAILED,
            obstacle(
                Reason.CONTAINER_LOST,
                f"node {target.node} lost the copy that {observed.source.node} had released to it: "
                "the container is started anew there",
            ),
        )
    if not target.answered:
        return Wait(SILENCE_POLL_SECONDS, no_answer(target))
    if target.state == SideState.HELD and observed.waiting_seconds >= RELAY_AFTER_SECONDS:
        return RelayVerdict(Verdict.RELEASED)
    return Wait(HANDOVER_POLL_SECONDS)


def _target_lost(observed: ObservedMigration) -> bool:
    """The target reports that it has no copy: it was restarted, or failed after the release."""
    target = observed.target
    holds = target.container is not None and target.container.run != RunState.ABSENT
    known = target.report is not None and not target.report.state.finished
    return not holds and not known
