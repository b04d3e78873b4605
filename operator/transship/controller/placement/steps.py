"""What one pass observes of a placement, and the steps that can follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from transship.agentapi.states import RecordState
from transship.api.migration import ContainerMigration
from transship.api.obstacle import Obstacle
from transship.api.placement import ContainerPlacement, FencedCopy, PlacementStatus
from transship.api.reasons import Reason
from transship.controller.migration.history import Migrations, unfinished
from transship.controller.node.nodes import Node, named
from transship.controller.placement.orders import order_digest
from transship.controller.placement.owner import (
    Owner,
    ReportedCopy,
    claims_against,
    fenced_copies,
    owner_of,
    recorded_nodes,
    superseded,
)


@dataclass(frozen=True)
class ObservedPlacement:
    """All that the decision about a placement is made from.

    status: as this operator last wrote it, which may be newer than the placement's.
    reported_copies: what agents report of the container, asked anew of the owner in this pass.
    full_nodes: nodes that take part in as many moves as they may.
    unanswered: agents that did not answer in this pass; nothing may be concluded from that.
    fenced: nodes that an administrator declared to run nothing any more.
    never_ordered: no agent was ever ordered to run it.
    unreported_nodes: registered nodes that may have the container, since no report came from them.
    """

    placement: ContainerPlacement
    status: PlacementStatus
    nodes: Sequence[Node]
    reported_copies: Sequence[ReportedCopy]
    migrations: Migrations
    now: datetime
    full_nodes: frozenset[str] = frozenset()
    unanswered: frozenset[str] = frozenset()
    fenced: frozenset[str] = frozenset()
    never_ordered: bool = True
    unreported_nodes: frozenset[str] = frozenset()

    @property
    def owner(self) -> Owner | None:
        return owner_of(self.status, migrations=self.migrations)

    @property
    def claims(self) -> tuple[ReportedCopy, ...]:
        """Copies whose agents claim the container against the record, without those left fenced."""
        claims = claims_against(self.owner, self.reported_copies, migrations=self.migrations)
        return tuple(copy for copy in claims if copy not in self.superseded)

    @property
    def superseded(self) -> tuple[ReportedCopy, ...]:
        """The copies of fenced nodes that are back and still have them."""
        owner = self.owner
        if owner is None:
            return ()
        return superseded(owner, self.reported_copies, self.fenced_copies)

    @property
    def fenced_copies(self) -> tuple[FencedCopy, ...]:
        return fenced_copies(self.status, self.migrations)

    @property
    def recorded_nodes(self) -> frozenset[str]:
        """The nodes that own the container, owned it, took part in its moves or were fenced."""
        return recorded_nodes(self.status, self.migrations)

    @property
    def current_migration(self) -> ContainerMigration | None:
        return unfinished(self.migrations)

    @property
    def deleting(self) -> bool:
        return self.placement.metadata.deletion_timestamp is not None

    @property
    def digest(self) -> str:
        return order_digest(self.placement.spec, addresses=self.status.held_addresses)

    def silent(self, node: str) -> bool:
        registered = named(self.nodes, node)
        return registered is None or registered.silent or node in self.unanswered


@dataclass(frozen=True)
class Allocate:
    """Allocate addresses from the pool."""


@dataclass(frozen=True)
class RecordOwner:
    """Write that this node is the owner, before its agent is ordered anything.

    why: it is the first owner, the node whose agent has the container although the record is lost,
    the node that it was released to, or the one that replaces a fenced node. fenced: copies to
    destroy when their nodes are back.
    """

    node: str
    epoch: int = 1
    why: Reason = Reason.PLACED
    fenced: tuple[FencedCopy, ...] = ()

    @property
    def starts(self) -> bool:
        """Whether the container is to be started there: then the node needs room for it."""
        return self.why in {Reason.PLACED, Reason.NODE_FENCED}


@dataclass(frozen=True)
class Order:
    """Send the container's order to its owner."""

    node: str
    epoch: int
    digest: str


@dataclass(frozen=True)
class Move:
    """Create a ContainerMigration."""

    source: str
    target: str
    epoch: int
    attempt: int


@dataclass(frozen=True)
class RecordCancellation:
    """Write that the move of this generation was cancelled by deleting its migration."""

    generation: int


@dataclass(frozen=True)
class Cancel:
    """Delete a running migration, because its placement is being deleted."""

    name: str


@dataclass(frozen=True)
class CleanUp:
    """Remove what a finished migration left on a node."""

    node: str
    migration: str
    record: RecordState


@dataclass(frozen=True)
class Remove:
    """Remove the container from a node for good."""

    node: str
    epoch: int


@dataclass(frozen=True)
class Release:
    """Return the addresses to the pool."""


@dataclass(frozen=True)
class Done:
    """Nothing is left: remove the finalizer."""


@dataclass(frozen=True)
class Wait:
    seconds: float


Step = (
    Allocate
    | RecordOwner
    | Order
    | Move
    | RecordCancellation
    | Cancel
    | CleanUp
    | Remove
    | Release
    | Done
    | Wait
)


@dataclass(frozen=True)
class Decision:
    """The step, and what is in the way of the spec (None: nothing, or the step leads there).

    beside: removals to try in the same pass; one that fails delays nothing.
    """

    step: Step
    obstacle: Obstacle | None = None
    wanted: str | None = None
    beside: tuple[Remove | CleanUp, ...] = ()
