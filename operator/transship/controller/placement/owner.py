"""Owner: the node whose copy of a container is the one that counts.

Ownership changes by what the operator has written down alone: a node that was claimed for the
placement (its status), and migrations. An agent owns nothing by saying so. Its report of a
container is believed where it is the recorded owner's; anything else is a claim against the record:
it is told of, and nothing is ordered, removed or handed out because of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transship.agentapi.containers import ContainerReport
from transship.agentapi.states import RecordState
from transship.api.placement import FencedCopy, PlacementStatus
from transship.controller.migration.history import (
    Migrations,
    has_arrived,
    is_finished,
    source_was_fenced,
)

# Frozen is the source's, before its verdict: it owns until it has released.
OWNING = frozenset({RecordState.RUNNING, RecordState.STOPPED, RecordState.FROZEN})
FENCED_COPIES_KEPT = 16
HIGHEST_EPOCH = 2**31 - 2  # the status counts in 32 bits, and the next owner needs a number too


@dataclass(frozen=True)
class ReportedCopy:
    """What one agent says of the container."""

    node: str
    report: ContainerReport

    @property
    def owns(self) -> bool:
        return self.report.record in OWNING


@dataclass(frozen=True)
class Owner:
    node: str
    epoch: int


def owner_of(status: PlacementStatus, *, migrations: Migrations) -> Owner | None:
    """As recorded; None: it was never placed, or the record is lost."""
    records = [Owner(m.spec.target_node, m.spec.epoch + 1) for m in migrations if has_arrived(m)]
    records += [Owner(m.spec.source_node, m.spec.epoch) for m in migrations]
    if status.node is not None and status.epoch > 0:
        records.append(Owner(status.node, status.epoch))
    return max(records, key=lambda owner: owner.epoch, default=None)


def next_epoch(owner: Owner, migrations: Migrations) -> int:
    """Above everything that any agent may have been permitted to become."""
    return 1 + max([owner.epoch, *(m.spec.epoch + 1 for m in migrations)])


def claims_against(
    owner: Owner | None, reported_copies: Sequence[ReportedCopy], *, migrations: Migrations
) -> tuple[ReportedCopy, ...]:
    """The agents that say they own it although neither the record nor a running move does."""
    permitted = {(owner.node, owner.epoch)} if owner is not None else set()
    for each in migrations:
        if not is_finished(each):
            permitted.add((each.spec.source_node, each.spec.epoch))
            permitted.add((each.spec.target_node, each.spec.epoch + 1))
    return tuple(
        s
        for s in reported_copies
        if s.owns and (s.node, s.report.epoch) not in permitted and not _is_behind(s, owner)
    )


def _is_behind(copy: ReportedCopy, owner: Owner | None) -> bool:
    """The recorded owner itself, which has not heard of its newest order yet."""
    if owner is None or copy.node != owner.node:
        return False
    return copy.report.epoch < owner.epoch


def fenced_copies(
    status: PlacementStatus, migrations: Migrations, *, more: Sequence[FencedCopy] = ()
) -> tuple[FencedCopy, ...]:
    """What nodes that were fenced had: to be destroyed when such a node is back."""
    moved = [
        FencedCopy(node=m.spec.source_node, epoch=m.spec.epoch)
        for m in migrations
        if source_was_fenced(m)
    ]
    highest: dict[str, int] = {}
    for each in (*status.fenced_copies, *moved, *more):
        highest[each.node] = max(each.epoch, highest.get(each.node, 0))
    newest = sorted(highest.items(), key=lambda item: item[1])[-FENCED_COPIES_KEPT:]
    return tuple(FencedCopy(node=node, epoch=epoch) for node, epoch in sorted(newest))


def superseded(
    owner: Owner, reported_copies: Sequence[ReportedCopy], copies: Sequence[FencedCopy]
) -> ReportedCopy | None:
    """A fenced node that is back and still has what it had."""
    known = {each.node: each.epoch for each in copies}
    return next(
        (
            s
            for s in reported_copies
            if s.owns
            and s.report.migration is None
            and s.report.epoch <= known.get(s.node, 0)
            and s.report.epoch < owner.epoch
        ),
        None,
    )


def copy_at(reported_copies: Sequence[ReportedCopy], node: str) -> ReportedCopy | None:
    return next((s for s in reported_copies if s.node == node), None)
