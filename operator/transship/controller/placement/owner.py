"""Owner: the node whose copy of a container counts.

Only the operator's own records change the owner: the placement's status, and its migrations. An
agent's report counts where that agent is the recorded owner. Any other report of ownership is a
claim against the record: a condition shows it, and nothing is ordered, removed or moved because of
it.
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
    """A copy of the container that an agent reports."""

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
    """The recorded owner. None: the placement was never placed, or the record is lost."""
    records = [Owner(m.spec.target_node, m.spec.epoch + 1) for m in migrations if has_arrived(m)]
    records += [Owner(m.spec.source_node, m.spec.epoch) for m in migrations]
    if status.node is not None and status.epoch > 0:
        records.append(Owner(status.node, status.epoch))
    return max(records, key=lambda owner: owner.epoch, default=None)


def next_epoch(owner: Owner, migrations: Migrations) -> int:
    """An epoch above all that any agent may have got."""
    return 1 + max([owner.epoch, *(m.spec.epoch + 1 for m in migrations)])


def claims_against(
    owner: Owner | None, reported_copies: Sequence[ReportedCopy], *, migrations: Migrations
) -> tuple[ReportedCopy, ...]:
    """The copies whose agents claim to own the container against record and running moves."""
    permitted = {(owner.node, owner.epoch)} if owner is not None else set()
    for copy in migrations:
        if not is_finished(copy):
            permitted.add((copy.spec.source_node, copy.spec.epoch))
            permitted.add((copy.spec.target_node, copy.spec.epoch + 1))
    return tuple(
        s
        for s in reported_copies
        if s.owns and (s.node, s.report.epoch) not in permitted and not _is_behind(s, owner)
    )


def _is_behind(copy: ReportedCopy, owner: Owner | None) -> bool:
    """Whether it is the recorded owner, which has not received its newest order yet."""
    if owner is None or copy.node != owner.node:
        return False
    return copy.report.epoch < owner.epoch


def fenced_copies(
    status: PlacementStatus, migrations: Migrations, *, more: Sequence[FencedCopy] = ()
) -> tuple[FencedCopy, ...]:
    """The copies on nodes that were fenced: to destroy when such a node is back."""
    moved = [
        FencedCopy(node=m.spec.source_node, epoch=m.spec.epoch)
        for m in migrations
        if source_was_fenced(m)
    ]
    highest: dict[str, int] = {}
    for copy in (*status.fenced_copies, *moved, *more):
        highest[copy.node] = max(copy.epoch, highest.get(copy.node, 0))
    newest = sorted(highest.items(), key=lambda item: item[1])[-FENCED_COPIES_KEPT:]
    return tuple(FencedCopy(node=node, epoch=epoch) for node, epoch in sorted(newest))


def recorded_nodes(status: PlacementStatus, migrations: Migrations) -> frozenset[str]:
    """The nodes that may have a copy, as far as the records say."""
    nodes = {status.node} if status.node is not None else set()
    nodes |= {copy.node for copy in fenced_copies(status, migrations)}
    return frozenset(
        nodes | {n for m in migrations for n in (m.spec.source_node, m.spec.target_node)}
    )


def superseded(
    owner: Owner, reported_copies: Sequence[ReportedCopy], copies: Sequence[FencedCopy]
) -> tuple[ReportedCopy, ...]:
    """The copies of fenced nodes that are back and still have them."""
    fenced = {copy.node: copy.epoch for copy in copies}
    return tuple(
        s
        for s in reported_copies
        if s.owns
        and s.report.migration is None
        and s.report.epoch <= fenced.get(s.node, 0)
        and s.report.epoch < owner.epoch
    )


def copy_at(reported_copies: Sequence[ReportedCopy], node: str) -> ReportedCopy | None:
    return next((s for s in reported_copies if s.node == node), None)
