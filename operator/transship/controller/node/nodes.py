"""Node: a NodeAgent, what only the operator knows of it, and whether it can be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transship.api.conditions import Status, find
from transship.api.node_agent import NodeAgent
from transship.api.obstacle import Obstacle, obstacle
from transship.api.reasons import Reason
from transship.controller.node.requests import Demand, shortage

OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
"""The taint that an administrator sets on a node that is shut down for certain."""


@dataclass(frozen=True)
class Node:
    """A node as scheduling sees it.

    load: placements that are there or on their way. silent: its agent does not answer.

    demands: what those placements request.
    out_of_service: the Kubernetes Node of its name has the taint.
    """

    agent: NodeAgent
    load: int = 0
    silent: bool = False
    demands: tuple[Demand, ...] = ()
    out_of_service: bool = False

    @property
    def name(self) -> str:
        return self.agent.metadata.name


def named(nodes: Sequence[Node], name: str) -> Node | None:
    return next((node for node in nodes if node.name == name), None)


def matches(node: Node, selector: dict[str, str]) -> bool:
    labels = node.agent.metadata.labels
    return all(labels.get(key) == value for key, value in selector.items())


def lack(node: Node, wanted: Demand) -> Obstacle | None:
    """What the node has too little of for a placement that is not there yet."""
    has = node.agent.status.capacity
    return shortage(wanted, node=node.name, has=has, demands=node.demands)


def unusable(node: Node) -> Obstacle | None:
    """Why no container may be placed on or moved to this node now."""
    agent = node.agent
    if agent.metadata.deletion_timestamp is not None:
        return obstacle(Reason.NODE_NOT_READY, f"node {node.name} is being deleted")
    if node.out_of_service:
        return obstacle(Reason.NODE_FENCED, f"the Node {node.name} has the taint {OUT_OF_SERVICE}")
    ready = find(agent.status.conditions, "Ready")
    if ready is None or ready.status != Status.TRUE:
        detail = f": {ready.message or ready.reason}" if ready is not None else ""
        return obstacle(Reason.NODE_NOT_READY, f"node {node.name} is not ready{detail}")
    if node.silent:
        return obstacle(Reason.NODE_NOT_READY, f"the agent of node {node.name} does not answer")
    if agent.spec.unschedulable:
        return obstacle(Reason.NODE_UNSCHEDULABLE, f"node {node.name} takes no containers now")
    return None
