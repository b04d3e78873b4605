"""Looks: all resources and what all agents say, seen once, and what two such looks have in common.

Nothing stops meanwhile. What is read first is old by the time that the last agent answers: a move
that ends in between seems to have two owners, a placement that is made in between seems to be
missing. Pure; the doctor does the reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from transship.api.address_pool import AddressPool
from transship.api.migration import ContainerMigration
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement
from transship.cli import findings
from transship.cli.findings import Finding, Told
from transship.cli.unmet import placement_findings
from transship.kube.listing import Listing


@dataclass(frozen=True)
class Look:
    """What was seen; silent: a finding for each agent that did not answer."""

    placements: Listing[ContainerPlacement]
    migrations: Listing[ContainerMigration]
    agents: Listing[NodeAgent]
    pools: Listing[AddressPool]
    told: Mapping[str, Told]
    silent: tuple[Finding, ...]
    now: datetime

    def findings(self) -> list[Finding]:
        migrations = self.migrations.resources
        deletable = [*self.placements.resources, *migrations]
        return [
            *findings.unreadable_findings(
                self.placements, self.migrations, self.agents, self.pools
            ),
            *findings.node_findings(self.agents.resources),
            *self.silent,
            *self._of_containers(),
            *self.unmet(),
            *findings.journal_findings(self.told),
            *findings.leftover_findings(self.told),
            *findings.stray_findings(migrations, self.placements),
            *findings.overdue_findings(migrations, self.placements, now=self.now),
            *findings.deletion_findings(deletable, now=self.now),
            *findings.address_findings(self.pools, self.placements),
        ]

    def unmet(self) -> list[Finding]:
        """Placements that are not what their specs say, be it only for this moment."""
        return placement_findings(self.placements.resources, now=self.now)

    def contradictions(self) -> frozenset[Finding]:
        """Where things that were read one after the other disagree, be it only for that reason."""
        return frozenset(
            [
                *self._of_containers(),
                *findings.stray_findings(self.migrations.resources, self.placements),
                *findings.address_findings(self.pools, self.placements),
            ]
        )

    def _of_containers(self) -> list[Finding]:
        held = {node: said.containers for node, said in self.told.items()}
        complete = not self.silent and not self.agents.unreadable
        return findings.container_findings(self.placements, held, complete=complete)


def lasting(first: Look, second: Look) -> list[Finding]:
    """What the second look finds, less what may have been there for a moment only.

    Contradictions have to be the same word for word; of a placement that is not what its spec says
    the words may have changed.
    """
    known = {finding.subject for finding in first.unmet()}
    momentary = {finding for finding in second.unmet() if finding.subject not in known}
    passing = (second.contradictions() - first.contradictions()) | momentary
    return [finding for finding in second.findings() if finding not in passing]
