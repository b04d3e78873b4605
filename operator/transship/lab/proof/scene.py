"""One move that is to be disturbed, as whoever disturbs it sees it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from transship.lab.daemons import daemon_alive
from transship.lab.proof import faults
from transship.lab.proof.cluster import Cluster
from transship.lab.state import LabState, load_state


class Side(StrEnum):
    SOURCE = "source"
    TARGET = "target"


@dataclass(frozen=True)
class Scene:
    """A placement on its way from one node to another."""

    cluster: Cluster
    directory: Path
    placement: str
    container: str  # its id, the placement's uid
    source: str
    target: str

    def node(self, side: Side) -> str:
        return self.source if side is Side.SOURCE else self.target

    @property
    def state(self) -> LabState:
        """The lab as it is now."""
        return load_state(self.directory)

    def agent(self, side: Side) -> faults.Target:
        return faults.Target(faults.Kind.AGENT, self.node(side))

    def power(self, side: Side) -> faults.Target:
        return faults.Target(faults.Kind.NODE, self.node(side))


OPERATOR = faults.Target(faults.Kind.OPERATOR, "operator")


def revive(directory: Path, state: LabState, targets: Iterable[faults.Target]) -> None:
    """Start again whatever has ended, as a service manager does.

    An operator that could not renew its lease in time ends itself, for instance.
    """
    for target in targets:
        if not daemon_alive(directory, target.daemon):
            faults.restart(directory, state, target)
