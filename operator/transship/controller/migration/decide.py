"""The next step of a migration, from what both agents answered in this pass alone.

The source's record is the only arbiter. Nothing is ever concluded from silence: an agent that does
not answer is waited for, since it may have decided, unless an administrator has fenced its node.
That is written down before the target hears of it: a source that comes back decides nothing any
more. Every step can be repeated, so the operator may be killed between any two.
"""

from __future__ import annotations

from transship import strategies
from transship.agentapi.migrations import MigrationReport
from transship.agentapi.states import RecordState, RunState, SideState, Verdict
from transship.api.obstacle import Obstacle, obstacle
from transship.api.reasons import Reason
from transship.controller.migration.steps import (
    AbortSource,
    AbortTarget,
    Begin,
    Finish,
    GiveUp,
    LoseMemory,
    ObservedMigration,
    Outcome,
    Prepare,
    RecordFence,
    RelayVerdict,
    Side,
    Step,
    Wait,
)
from transship.controller.placement.owner import OWNING

HANDOVER_POLL_SECONDS = 0.1  # it competes with the handover for the nodes' processors
SHORT_POLL_SECONDS = 0.03  # nothing is frozen, and the next step waits for the operator alone
WORK_POLL_SECONDS = 0.05
LONG_WORK_POLL_SECONDS = 0.25
WORK_AFTER_SECONDS = 1.0  # until then every wait may be most of the whole move
LONG_WORK_AFTER_SECONDS = 5.0
SILENCE_POLL_SECONDS = 0.5
# The source brings the verdict itself; only a target that has not heard it for this long is told.
RELAY_AFTER_SECONDS = 0.3
# How long a success waits for the source's last figures and for the end of its frozen copy.
SOURCE_END_TIMEOUT_SECONDS = 3.0


def next_step(observed: ObservedMigration) -> Step:
    """Choose the one step to take now."""
    if _target_owns(observed):
        return _disbelieve(observed) or _arrived(observed)
    if observed.fence_recorded or observed.source.fenced:
        return _without_source(observed)
    if observed.verdict == Verdict.RELEASED:
        return _bring_verdict(observed)
    if observed.verdict == Verdict.ABORTED or _source_is_over(observed):
        return _roll_back(observed, _why_over(observed))
    if observed.give_up is not None:
        return _withdraw(observed, observed.give_up)
    if observed.source.report is None:
        return _get_ready(observed)
    return _oversee(observed)


def _source_is_over(observed: ObservedMigration) -> bool:
    return observed.source.state in {SideState.FAILED, SideState.CANCELLED}


def _target_owns(observed: ObservedMigration) -> bool:
    """It says so, with the one epoch that this migration can give it."""
    held = observed.target.container
    if held is not None and held.epoch != observed.spec.epoch + 1:
        return False
    if observed.target.state == SideState.RUNNING:
        return True
    return held is not None and held.record in {RecordState.RUNNING, RecordState.STOPPED}


def _go_on_fenced(observed: ObservedMigration) -> Step:
    """The target owns; where it has thrown its copy away meanwhile it is started anew there."""
    report = observed.target.report
    if observed.target.state == SideState.HELD:
        return RelayVerdict(Verdict.FENCED)
    if report is not None and not report.state.finished:
        return AbortTarget()  # a late order had it prepare again, for what never comes
    return _bring_verdict(observed)


def _disbelieve(observed: ObservedMigration) -> Step | None:
    """The source's record is the arbiter: nobody runs a container that was not released.

    For a moment both can be true: the two were not asked at the very same time.
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
    told = observed.waiting_seconds > WORK_AFTER_SECONDS
    return Wait(HANDOVER_POLL_SECONDS, why if told else None)


def _may_have_released(observed: ObservedMigration) -> bool:
    if observed.verdict in {Verdict.UNDECIDED, Verdict.ABORTED}:
        return False
    return observed.verdict == Verdict.RELEASED or not _source_still_owns(observed)


def _without_source(observed: ObservedMigration) -> Step:
    """The source is fenced: a copy that is held goes on, what was not held has no memory."""
    target = observed.target
    if observed.fence_recorded:
        return _go_on_fenced(observed)
    if target.state == SideState.HELD:
        return RecordFence()
    if not target.answered and not target.fenced:
        return Wait(SILENCE_POLL_SECONDS, _silence(target))
    return _roll_back(
        observed,
        GiveUp(
            Outcome.FAILED,
            obstacle(
                Reason.NODE_FENCED,
                f"{observed.source.node} was fenced before the handover: what ran there is lost",
            ),
        ),
    )


def _arrived(observed: ObservedMigration) -> Step:
    """The container runs on the target. The source still has to end its frozen copy."""
    source, report = observed.source, observed.target.report
    if report is not None and report.reason == Reason.CONTAINER_LOST:
        return Finish(Outcome.FAILED, obstacle(Reason.CONTAINER_LOST, report.message))
    if _awaits_memory(observed):
        if (cause := _cause_of_loss(source)) is not None:
            return LoseMemory(_memory_lost(observed, cause))
        return Wait(HANDOVER_POLL_SECONDS, _still_draining(observed))
    ending = source.state is not None and source.state != SideState.DONE
    if (ending or not source.answered) and observed.waiting_seconds < SOURCE_END_TIMEOUT_SECONDS:
        return Wait(SHORT_POLL_SECONDS)
    return Finish(Outcome.SUCCEEDED)


def _awaits_memory(observed: ObservedMigration) -> bool:
    """After a post-copy: pages that only the source has are still to come."""
    held, report = observed.target.container, observed.source.report
    strategy = None if report is None else report.strategy
    follows = strategy is None or strategies.of(strategy).memory_follows
    return held is not None and held.awaits_memory and follows


def _cause_of_loss(source: Side) -> str | None:
    """Why it can send no more of the memory, ever; None as long as it may.

    What it has sent already is the target's to judge: a copy that lacks nothing runs on there.
    """
    if source.fenced:
        return f"{source.node} is fenced"
    if not source.answered:
        return None
    held, report = source.container, source.report
    if report is not None and report.reason == Reason.PAGES_LOST:
        return f"{source.node} cannot read it any more"
    if held is None:
        forgotten = f"{source.node} knows nothing of the container any more"
        return forgotten if report is None else None
    return _cause_of_end(source.node, held.run) if held.owes_memory else None


def _cause_of_end(node: str, run: RunState) -> str | None:
    """What has become of the frozen copy."""
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


def _still_draining(observed: ObservedMigration) -> Obstacle:
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


def _bring_verdict(observed: ObservedMigration) -> Step:
    """Past the point of no return: only the target can end this now."""
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
        return Wait(SILENCE_POLL_SECONDS, _silence(target))
    if target.state == SideState.HELD and observed.waiting_seconds >= RELAY_AFTER_SECONDS:
        return RelayVerdict(Verdict.RELEASED)
    return Wait(HANDOVER_POLL_SECONDS)


def _target_lost(observed: ObservedMigration) -> bool:
    """It says itself that it has no copy: restarted without one, or failed after the release."""
    target = observed.target
    holds = target.container is not None and target.container.run != RunState.ABSENT
    known = target.report is not None and not target.report.state.finished
    return not holds and not known


def _roll_back(observed: ObservedMigration, end: GiveUp) -> Step:
    """The source keeps the container: what the target prepared is thrown away."""
    target = observed.target
    if target.answered and target.report is not None and not target.report.state.finished:
        held = target.report.state == SideState.HELD
        return RelayVerdict(Verdict.ABORTED) if held else AbortTarget()
    # a silent target asks the source by itself and is tidied up when it answers again
    return Finish(end.outcome, end.why)


def _why_over(observed: ObservedMigration) -> GiveUp:
    """Whose words tell best why the source kept its container."""
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
            return GiveUp(Outcome.FAILED, _said(report))
    if source is None and (preflight_obstacle := _preflight_obstacle(observed)) is not None:
        return preflight_obstacle
    return GiveUp(
        Outcome.FAILED,
        obstacle(
            Reason.MIGRATION_FAILED, f"the agent of {observed.source.node} kept the container"
        ),
    )


def _withdraw(observed: ObservedMigration, wish: GiveUp) -> Step:
    """Give up before the release: the source decides first, whatever the target is doing."""
    source = observed.source
    if not source.answered:
        return Wait(SILENCE_POLL_SECONDS, _silence(source))
    if source.report is not None:
        return AbortSource()
    return _end_unbegun(observed, wish)


def _end_unbegun(observed: ObservedMigration, end: GiveUp) -> Step:
    """The source knows nothing of the move; the order to begin it may still be under way to it.

    So it is made to write down that this move never happens, before anybody believes that.
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
    return _roll_back(observed, end)


def _source_still_owns(observed: ObservedMigration) -> bool:
    """It says that it owns the container: a move that it does not know is never released."""
    held = observed.source.container
    owned = {RecordState.RUNNING, RecordState.STOPPED}
    return held is not None and held.record in owned and held.epoch == observed.spec.epoch


def _get_ready(observed: ObservedMigration) -> Step:
    """The source has not begun: check, prepare the target, then let the source begin."""
    for side in (observed.source, observed.target):
        if not side.answered:
            return Wait(SILENCE_POLL_SECONDS, _silence(side))
    if not _source_still_owns(observed):
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
            return Wait(_work_poll(observed))


def _start(observed: ObservedMigration) -> Step:
    """Nothing has been asked of anybody yet, as far as they tell."""
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
        return _said(report)
    return obstacle(
        Reason.MIGRATION_FAILED, f"the agent of {observed.target.node} could not prepare the move"
    )


def _oversee(observed: ObservedMigration) -> Step:
    """Source and target work with each other; the operator only looks on, and ends what is lost."""
    source, target = observed.source, observed.target
    if source.state in {SideState.FROZEN, SideState.RELEASED}:
        return Wait(HANDOVER_POLL_SECONDS)  # the agents decide this among themselves
    if target.answered and (target.report is None or target.state == SideState.FAILED):
        return AbortSource()
    return Wait(_work_poll(observed), None if target.answered else _silence(target))


def _work_poll(observed: ObservedMigration) -> float:
    if observed.waiting_seconds > LONG_WORK_AFTER_SECONDS:
        return LONG_WORK_POLL_SECONDS
    return (
        WORK_POLL_SECONDS
        if observed.waiting_seconds > WORK_AFTER_SECONDS
        else HANDOVER_POLL_SECONDS
    )


def _silence(side: Side) -> Obstacle:
    return obstacle(Reason.AGENT_UNREACHABLE, f"the agent of node {side.node} does not answer")


def _said(report: MigrationReport) -> Obstacle:
    """In an agent's words, with the table's hint where it has given none."""
    known = next((reason for reason in Reason if reason == report.reason), None)
    hint = report.hint or (known.hint if known is not None else "")
    return Obstacle(report.reason, report.message, hint)


def _not_the_owner(observed: ObservedMigration) -> Obstacle:
    held = observed.source.container
    found = "no such container" if held is None else f"one, {held.record} as epoch {held.epoch}"
    return obstacle(
        Reason.REFUSED,
        f"{observed.source.node} does not own the container as epoch {observed.spec.epoch}: it has "
        f"{found}",
    )
