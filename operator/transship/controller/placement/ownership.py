"""Who is to own a placement: the first node, and every change that is no migration.

A new owner is claimed in the status before it is asked for anything, with an epoch above all that
was. A second copy is never risked: where an agent claims the container against the record, or may
have it although nobody has heard of it, nothing is started.
"""

from __future__ import annotations

from transship.agentapi.states import RecordState
from transship.api.obstacle import Obstacle, obstacle
from transship.api.placement import FencedCopy
from transship.api.reasons import Reason
from transship.controller.node.requests import demand_of
from transship.controller.placement.owner import (
    HIGHEST_EPOCH,
    Owner,
    Sighting,
    fenced_copies,
    next_epoch,
    sighting_at,
    superseded,
)
from transship.controller.placement.scheduling import entrance, wanted_node
from transship.controller.placement.steps import Claim, Decision, Remove, Seen, Wait

BLOCKED_SECONDS = 10.0
SILENCE_POLL_SECONDS = 2.0
ASKING_POLL_SECONDS = 0.2


def first(seen: Seen) -> Decision:
    """No owner is recorded: it is new, or the record is lost and somebody has it."""
    if not seen.fresh and (found := _lost_record(seen)) is not None:
        return found
    return _claim(seen, present=None, claim=Claim("", 1))


def unknown_owner(seen: Seen) -> Decision | None:
    """Somebody may have it, and nobody knows: for the end of a placement whose record is lost."""
    if seen.fresh or not seen.unknown:
        return None
    return Decision(Wait(SILENCE_POLL_SECONDS), _unheard(seen))


def change(seen: Seen, owner: Owner) -> Decision | None:
    """What the owner's own record, or a fenced node that has come back, asks for."""
    old = superseded(owner, seen.sightings, fenced_copies(seen.status, seen.migrations))
    if old is not None:
        return Decision(Remove(old.node, old.report.epoch))
    sighting = sighting_at(seen.sightings, owner.node)
    if sighting is None or sighting.report.record != RecordState.RELEASED:
        return None
    report = sighting.report
    if not report.released_to or report.epoch != owner.epoch + 1:
        return None
    return Decision(Claim(report.released_to, report.epoch, Reason.RELEASED))


def replace_silent(seen: Seen, owner: Owner) -> Decision:
    """The owner does not answer: only an administrator's word permits another one."""
    if owner.node not in seen.fenced:
        return Decision(Wait(SILENCE_POLL_SECONDS), lost(owner.node))
    if (bar := bar_to_start(seen)) is not None:
        return bar
    epoch = next_epoch(owner, seen.migrations)
    left = tuple(FencedCopy(node=node, epoch=epoch - 1) for node in sorted(seen.fenced))
    claim = Claim("", epoch, Reason.NODE_FENCED, left)
    return _claim(seen, present=owner.node, claim=claim)


def bar_to_start(seen: Seen) -> Decision | None:
    """What forbids to order the owner a container that it does not have (yet)."""
    if seen.claims:
        return disputed(seen)
    if any(not seen.silent(node) for node in seen.unknown):
        return Decision(Wait(ASKING_POLL_SECONDS))  # each is heard, or silent, within seconds
    return None


def disputed(seen: Seen) -> Decision:
    return Decision(Wait(BLOCKED_SECONDS), dispute(seen))


def dispute(seen: Seen) -> Obstacle | None:
    """What agents say against the record, in words; None while nobody does."""
    if not seen.claims:
        return None
    said = " and ".join(f"{s.node} (epoch {s.report.epoch})" for s in seen.claims)
    owner = seen.owner
    recorded = f"{owner.node} (epoch {owner.epoch})" if owner is not None else "nobody"
    return obstacle(
        Reason.OWNER_DISPUTED, f"{said} says that it owns the container; recorded is {recorded}"
    )


def lost(node: str) -> Obstacle:
    return obstacle(
        Reason.NODE_LOST,
        f"the agent of node {node} does not answer; its container may still run, "
        "so it is not started elsewhere",
    )


def _lost_record(seen: Seen) -> Decision | None:
    """Adopt the only agent that has it, once all have been heard; None: nobody has anything."""
    if seen.unknown:
        return Decision(Wait(SILENCE_POLL_SECONDS), _unheard(seen))
    owners = [s for s in seen.sightings if s.owns]
    if len(owners) == 1 and _is_of(seen, owners[0]):
        found = owners[0]
        return Decision(Claim(found.node, found.report.epoch, Reason.OWNER_ADOPTED))
    if owners:
        return disputed(seen)
    if seen.sightings:  # of a move: the agents decide among themselves who has it
        return Decision(Wait(SILENCE_POLL_SECONDS), obstacle(
            Reason.OWNER_DISPUTED,
            f"no owner is recorded, and {seen.sightings[0].node} has a copy of a move",
        ))  # fmt: skip
    return None


def _is_of(seen: Seen, sighting: Sighting) -> bool:
    meta, report = seen.placement.metadata, sighting.report
    named = (report.namespace, report.name) == (meta.namespace, meta.name)
    return named and report.id == meta.uid and 0 < report.epoch < HIGHEST_EPOCH


def _unheard(seen: Seen) -> Obstacle:
    nodes = ", ".join(sorted(seen.unknown))
    return obstacle(
        Reason.NODE_LOST,
        f"the placement's status names no owner, and the agent of {nodes} has not answered: it may "
        "have the container",
    )


def _claim(seen: Seen, *, present: str | None, claim: Claim) -> Decision:
    """The node that the spec wants now, unless it is the one that is lost (present)."""
    asked = demand_of(seen.placement)
    wanted = wanted_node(seen.placement.spec, nodes=seen.nodes, present=None, wanted=asked)
    if isinstance(wanted, Obstacle):
        return Decision(Wait(BLOCKED_SECONDS), wanted)
    if wanted == present:
        return Decision(Wait(SILENCE_POLL_SECONDS), _fenced_target(wanted), wanted)
    barred = entrance(wanted, nodes=seen.nodes, wanted=asked)
    if barred is not None:
        return Decision(Wait(BLOCKED_SECONDS), barred, wanted)
    step = Claim(wanted, claim.epoch, claim.why, claim.fenced)
    return Decision(step, wanted=wanted)


def _fenced_target(node: str) -> Obstacle:
    return obstacle(
        Reason.NODE_FENCED,
        f"spec.targetNode is {node}, which was declared to run nothing any more",
        hint="set spec.targetNode to another node: the container is started anew there",
    )
