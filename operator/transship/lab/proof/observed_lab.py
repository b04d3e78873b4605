"""A lab as the checks see it, its baseline, and the wait for it to be idle.

The baseline is what each node holds once containers have run there and left. The first containers
leave folders and cgroups on a node that serve all later ones, so an empty new node is no baseline.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from transship.api.placement import Strategy
from transship.common.errors import DeadlineExceeded, TransshipError
from transship.lab.nodes import namespace_nodes
from transship.lab.proof import invariants, node_snapshot
from transship.lab.proof.invariants import until_none
from transship.lab.proof.node_snapshot import NodeSnapshot, without_stale_routes
from transship.lab.proof.resources import LabResources
from transship.lab.proof.workload import Workload, witness_placement
from transship.lab.state import LabState, lab_dir

START_TIMEOUT_SECONDS = 60.0
END_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class ObservedLab:
    """A lab, its resources, and what its nodes hold when no container is on them."""

    resources: LabResources
    state: LabState
    baseline: Mapping[str, NodeSnapshot] = field(default_factory=dict)

    def snapshot(self, node: str) -> NodeSnapshot:
        return node_snapshot.take_snapshot(lab_dir(self.state.name), self.state, node)

    def snapshots(self) -> dict[str, NodeSnapshot]:
        return {node: without_stale_routes(self.snapshot(node)) for node in self.state.nodes}

    def stale_routes(self) -> list[str]:
        """Routes to the new node of containers that have left. They expire by themselves."""
        return [
            f"left on {node}: {item}"
            for node in self.state.nodes
            for item in sorted(self.snapshot(node))
            if item.startswith(node_snapshot.STALE_ROUTE)
        ]

    def leftovers(self, node: str) -> list[str]:
        """What a node without a container has more, or less, than its baseline."""
        if not namespace_nodes.node_alive(lab_dir(self.state.name), node):
            return [f"{node} does not run"]
        now, baseline = without_stale_routes(self.snapshot(node)), self.baseline[node]
        more = [f"left on {node}: {item}" for item in sorted(now - baseline)]
        less = [item for item in sorted(baseline - now) if item.startswith(node_snapshot.PERMANENT)]
        return more + [f"missing on {node}: {item}" for item in less]

    def all_leftovers(self) -> list[str]:
        return [item for node in self.state.nodes for item in self.leftovers(node)]


@contextmanager
def idle_lab(state: LabState) -> Iterator[ObservedLab]:
    """Make the baseline: move one witness over all nodes and delete it."""
    if state.kubeconfig is None:
        raise TransshipError(f"lab {state.name} is not complete", hint="transship lab up")
    with LabResources(state.kubeconfig) as resources:
        lab = ObservedLab(resources, state)
        first, *others = state.nodes
        workload = Workload("first")
        resources.create(
            witness_placement(state, workload.name, node=first, strategy=Strategy.AUTO)
        )
        await_running(lab, workload, node=first)
        for node in (*others, first):
            resources.edit(workload.name, {"targetNode": node})
            moved = partial(invariants.violations, resources, state, workload, node=node)
            _require_none(until_none(moved, seconds=END_TIMEOUT_SECONDS))
        resources.delete(workload.name)
        gone = partial(invariants.remaining, resources, workload)
        _require_none(until_none(gone, seconds=END_TIMEOUT_SECONDS))
        _require_none(until_none(lab.stale_routes, seconds=END_TIMEOUT_SECONDS))
        yield replace(lab, baseline=lab.snapshots())


def await_running(lab: ObservedLab, workload: Workload, *, node: str) -> None:
    """Wait until it runs on the node, and note its uid and address. Raises DeadlineExceeded."""
    starting = partial(_starting, lab, workload, node=node)
    if findings := until_none(starting, seconds=START_TIMEOUT_SECONDS):
        raise DeadlineExceeded(f"starting {workload.name}: {'; '.join(findings)}")


def _starting(lab: ObservedLab, workload: Workload, *, node: str) -> list[str]:
    placement = lab.resources.placement(workload.name)
    if placement is None or placement.status.address is None:
        return ["it has no address yet"]
    workload.container = placement.metadata.uid or ""
    workload.address = placement.status.address
    return invariants.violations(lab.resources, lab.state, workload, node=node)


def _require_none(findings: list[str]) -> None:
    if findings:
        raise TransshipError(f"preparing the lab: {'; '.join(findings)}")
