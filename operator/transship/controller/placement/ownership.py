"""Who is to own a placement: the first node, and every change of owner that is no migration.

A new owner is written into the status, with an epoch above all others, before its agent is ordered
anything. A second copy is never risked: nothing is started where an agent claims the container
against the record, or may have it although it has not reported yet.
"""

from __future__ import annotations

from transship.agentapi.states import RecordState, RunState
from transship.api.obstacle import Obstacle, obstacle
from transship.api.placement import FencedCopy
from transship.api.reasons import Reason
from transship.controller.node.requests import demand_of
from transship.controller.placement.owner import (
    HIGHEST_EPOCH,
    Owner,
    ReportedCopy,
    copy_at,
    next_epoch,
)
from transship.controller.placement.scheduling import entrance, wanted_node
from transship.controller.placement.steps import (
    Decision,
    ObservedPlacement,
    RecordOwner,
    Remove,
    Wait,
)

BLOCKED_SECONDS = 10.0
SILENCE_POLL_SECONDS = 2.0
ASKING_POLL_SECONDS = 0.2

_ENDED = {RunState.ABSENT, RunState.EXITED}


def first(observed: ObservedPlacement) -> Decision:
    """No owner is recorded: the placement is new, or the record is lost and a node has it."""
    if not observed.never_ordered and (adoption := _lost_record(observed)) is not None:
        return adoption
    return _record_owner(observed, present=None, step=RecordOwner("", 1))


def owner_not_reported(observed: ObservedPlacement) -> Decision | None:
    """Wait for the agents that may have it: used to delete a placement whose record is lost."""
    if observed.never_ordered or not observed.unreported_nodes:
        return None
    return Decision(Wait(SILENCE_POLL_SECONDS), _nodes_without_answer(observed))


def follow_release(observed: ObservedPlacement, owner: Owner) -> Decision | None:
    """The owner's own record says to whom it has released the container."""
    copy = copy_at(observed.reported_copies, owner.node)
    if copy is None or copy.report.record != RecordState.RELEASED:
        return None
    report = copy.report
    if not report.released_to or report.epoch != owner.epoch + 1:
        return None
    return Decision(RecordOwner(report.released_to, report.epoch, Reason.RELEASED))


def replace_silent(observed: ObservedPlacement, owner: Owner) -> Decision:
    """The owner does not answer: only an administrator's taint permits another one."""
    if owner.node not in observed.fenced:
        return Decision(Wait(SILENCE_POLL_SECONDS), lost(owner.node))
    if (obstacle_to_start := why_not_to_start(observed)) is not None:
        return obstacle_to_start
    epoch = next_epoch(owner, observed.migrations)
    copies = tuple(FencedCopy(node=node, epoch=epoch - 1) for node in sorted(observed.fenced))
    step = RecordOwner("", epoch, Reason.NODE_FENCED, copies)
    return _record_owner(observed, present=owner.node, step=step)


def why_not_to_start(observed: ObservedPlacement) -> Decision | None:
    """Why the owner may not be ordered a container that it does not have yet."""
    if observed.claims:
        return disputed(observed)
    if (still_runs := _superseded_but_alive(observed)) is not None:
        return Decision(Remove(still_runs.node, still_runs.report.epoch))
    if any(not observed.silent(node) for node in observed.unreported_nodes):
        # each agent reports, or is silent, within seconds
        return Decision(Wait(ASKING_POLL_SECONDS))
    return None


def _superseded_but_alive(observed: ObservedPlacement) -> ReportedCopy | None:
    """A copy that runs on a node that was fenced too early: it ends before another one starts."""
    return next((copy for copy in observed.superseded if copy.report.run not in _ENDED), None)


def disputed(observed: ObservedPlacement) -> Decision:
    return Decision(Wait(BLOCKED_SECONDS), dispute(observed))


def dispute(observed: ObservedPlacement) -> Obstacle | None:
    """The claims of agents against the record, as an obstacle."""
    if not observed.claims:
        return None
    claimants = " and ".join(f"{s.node} (epoch {s.report.epoch})" for s in observed.claims)
    owner = observed.owner
    recorded = f"{owner.node} (epoch {owner.epoch})" if owner is not None else "nobody"
    return obstacle(
        Reason.OWNER_DISPUTED,
        f"{claimants} says that it owns the container; recorded is {recorded}",
    )


def lost(node: str) -> Obstacle:
    return obstacle(
        Reason.NODE_LOST,
        f"the agent of node {node} does not answer; its container may still run, "
        "so it is not started elsewhere",
    )


def _lost_record(observed: ObservedPlacement) -> Decision | None:
    """Adopt the only node that has it, once all agents have reported; None: no node has it."""
    if observed.unreported_nodes:
        return Decision(Wait(SILENCE_POLL_SECONDS), _nodes_without_answer(observed))
    owners = [s for s in observed.reported_copies if s.owns]
    if len(owners) == 1 and _is_of(observed, owners[0]):
        owner = owners[0]
        return Decision(RecordOwner(owner.node, owner.report.epoch, Reason.OWNER_ADOPTED))
    if owners:
        return disputed(observed)
    if observed.reported_copies:
        # the two agents of a migration decide between them who has it
        holder = observed.reported_copies[0].node
        return Decision(
            Wait(SILENCE_POLL_SECONDS),
            obstacle(
                Reason.OWNER_DISPUTED,
                f"no owner is recorded, and {holder} has a copy of a migration",
            ),
        )
    return None


def _is_of(observed: ObservedPlacement, copy: ReportedCopy) -> bool:
    meta, report = observed.placement.metadata, copy.report
    named = (report.namespace, report.name) == (meta.namespace, meta.name)
    return named and report.id == meta.uid and 0 < report.epoch < HIGHEST_EPOCH


def _nodes_without_answer(observed: ObservedPlacement) -> Obstacle:
    nodes = ", ".join(sorted(observed.unreported_nodes))
    return obstacle(
        Reason.NODE_LOST,
        f"the placement's status names no owner, and the agent of {nodes} has not answered: it may "
        "have the container",
    )


def _record_owner(
    observed: ObservedPlacement, *, present: str | None, step: RecordOwner
) -> Decision:
    """Record the node that the spec wants now as owner, unless it is the lost one (present)."""
    asked = demand_of(observed.placement)
    wanted = wanted_node(observed.placement.spec, nodes=observed.nodes, present=None, wanted=asked)
    if isinstance(wanted, Obstacle):
        return Decision(Wait(BLOCKED_SECONDS), wanted)
    if wanted == present:
        return Decision(Wait(SILENCE_POLL_SECONDS), _fenced_target(wanted), wanted)
    refusal = entrance(wanted, nodes=observed.nodes, wanted=asked)
    if refusal is not None:
        return Decision(Wait(BLOCKED_SECONDS), refusal, wanted)
    step = RecordOwner(wanted, step.epoch, step.why, step.fenced)
    return Decision(step, wanted=wanted)


def _fenced_target(node: str) -> Obstacle:
    return obstacle(
        Reason.NODE_FENCED,
        f"spec.targetNode is {node}, which is fenced",
        hint="set spec.targetNode to another node: the container is started anew there",
    )
