"""A snapshot of all resources and all agents' answers, and what two snapshots agree on.

Nothing stands still while a snapshot is taken. What is read first is old when the last agent
answers: a move that ends in between seems to have two owners, a placement that is created in
between seems to be missing. Only a finding of two snapshots is reliable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from transship.api.address_pool import AddressPool
from transship.api.migration import ContainerMigration
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement
from transship.cli.doctor import checks
from transship.cli.doctor.checks import AgentAnswer, Finding
from transship.cli.doctor.placement_checks import placement_findings
from transship.kube.listing import Listing


@dataclass(frozen=True)
class Snapshot:
    """`answers` are by node name; `unreachable` has a finding for each agent without an answer."""

    placements: Listing[ContainerPlacement]
    migrations: Listing[ContainerMigration]
    agents: Listing[NodeAgent]
    pools: Listing[AddressPool]
    answers: Mapping[str, AgentAnswer]
    unreachable: tuple[Finding, ...]
    now: datetime

    def findings(self) -> list[Finding]:
        migrations = self.migrations.resources
        deletable = [*self.placements.resources, *migrations]
        return [
            *checks.unreadable_findings(self.placements, self.migrations, self.agents, self.pools),
            *checks.node_findings(self.agents.resources),
            *self.unreachable,
            *self._container_findings(),
            *self.placement_findings(),
            *checks.journal_findings(self.answers),
            *checks.leftover_findings(self.answers),
            *checks.orphan_findings(migrations, self.placements),
            *checks.overdue_findings(migrations, self.placements, now=self.now),
            *checks.deletion_findings(deletable, now=self.now),
            *checks.address_findings(self.pools, self.placements),
        ]

    def placement_findings(self) -> list[Finding]:
        """Placements that differ from their specs. A single snapshot may catch a short moment."""
        return placement_findings(self.placements.resources, now=self.now)

    def contradictions(self) -> frozenset[Finding]:
        """Disagreements that may only come from reading one thing after the other."""
        return frozenset(
            [
                *self._container_findings(),
                *checks.orphan_findings(self.migrations.resources, self.placements),
                *checks.address_findings(self.pools, self.placements),
            ]
        )

    def _container_findings(self) -> list[Finding]:
        containers = {node: answer.containers for node, answer in self.answers.items()}
        complete = not self.unreachable and not self.agents.unreadable
        return checks.container_findings(self.placements, containers, complete=complete)


def lasting_findings(first: Snapshot, second: Snapshot) -> list[Finding]:
    """The second snapshot's findings, without those that may have held for a moment only.

    A contradiction has to be the same, word for word. A placement that differs from its spec has to
    do so in both, but its message may have changed.
    """
    known = {finding.subject for finding in first.placement_findings()}
    momentary = {finding for finding in second.placement_findings() if finding.subject not in known}
    passing = (second.contradictions() - first.contradictions()) | momentary
    return [finding for finding in second.findings() if finding not in passing]
