"""Owner: the node whose copy of a container is the one that counts.

The truth is what the agents' records say; the status and the history stand in for agents that do
not answer. The highest epoch wins: a lower one has been given away, whoever still believes in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transship.api.placement import PlacementStatus
from transship.plan.moves import Migrations, was_released
from transship.protocol.containers import ContainerReport
from transship.protocol.states import RecordState

# Frozen is the source's, before its verdict: it owns until it has released.
OWNING = frozenset({RecordState.RUNNING, RecordState.STOPPED, RecordState.FROZEN})


@dataclass(frozen=True)
class Sighting:
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


def owner_of(
    status: PlacementStatus, *, sightings: Sequence[Sighting], migrations: Migrations
) -> Owner | None:
    """None: it was never placed."""
    claims = [Owner(s.node, s.report.epoch) for s in sightings if s.owns]
    claims += [Owner(m.spec.target_node, m.spec.epoch + 1) for m in migrations if was_released(m)]
    if status.node is not None and status.epoch > 0:
        claims.append(Owner(status.node, status.epoch))
    return max(claims, key=lambda owner: owner.epoch, default=None)


def sighting_at(sightings: Sequence[Sighting], node: str) -> Sighting | None:
    return next((s for s in sightings if s.node == node), None)
