"""Scheduling: the node that a placement belongs on, named by the user or chosen here.

A placement without targetNode stays where it is as long as its node has the labels of its
nodeSelector: a cordoned or busy node is no reason to move it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from transship.api.obstacle import Obstacle, obstacle
from transship.api.placement import PlacementSpec
from transship.api.reasons import Reason
from transship.controller.node.nodes import Node, lack, matches, named, unusable
from transship.controller.node.requests import Demand


def wants(spec: PlacementSpec, node: str, *, nodes: Sequence[Node]) -> bool:
    """Whether a container that is on this node, or on its way there, is where the spec wants it."""
    if spec.target_node is not None:
        return spec.target_node == node
    if not spec.node_selector:
        return True
    registered = named(nodes, node)
    return registered is not None and matches(registered, spec.node_selector)


def wanted_node(
    spec: PlacementSpec,
    *,
    nodes: Sequence[Node],
    present: str | None,
    failures: Mapping[str, int] | None = None,
    wanted: Demand | None = None,
) -> str | Obstacle:
    """The node to be on. failures: how often a move to each node failed for the present spec."""
    if spec.target_node is not None:
        return spec.target_node
    if present is not None and wants(spec, present, nodes=nodes):
        return present
    fitting = [node for node in nodes if matches(node, spec.node_selector)]
    unfit = {
        node.name: why for node in fitting if (why := _node_obstacle(node, wanted)) is not None
    }
    free = [node for node in fitting if node.name not in unfit]
    if not free:
        return _no_node(spec, unfit)
    failed = failures or {}
    return min(free, key=lambda n: (failed.get(n.name, 0), n.load, n.name)).name


def entrance(name: str, *, nodes: Sequence[Node], wanted: Demand | None = None) -> Obstacle | None:
    """Why a container cannot be placed on or moved to the node of this name."""
    node = named(nodes, name)
    if node is None:
        names = ", ".join(sorted(n.name for n in nodes)) or "none"
        return obstacle(
            Reason.NODE_NOT_FOUND, f'no NodeAgent is called "{name}"; there are: {names}'
        )
    return _node_obstacle(node, wanted)


def _node_obstacle(node: Node, wanted: Demand | None) -> Obstacle | None:
    return unusable(node) or (lack(node, wanted) if wanted is not None else None)


def _no_node(spec: PlacementSpec, unfit: Mapping[str, Obstacle]) -> Obstacle:
    """One obstacle for all fitting nodes: the reason that they share, and all messages."""
    if not unfit:
        asked = ", ".join(f"{key}={value}" for key, value in sorted(spec.node_selector.items()))
        message = f"no NodeAgent has the labels {asked}" if asked else "there is no NodeAgent"
        return obstacle(Reason.NO_NODE_MATCHES, message)
    why = "; ".join(unfit[name].message for name in sorted(unfit))
    message = f"0 of {len(unfit)} fitting nodes can take the container: {why}"
    shared = {cause.reason: cause for cause in unfit.values()}
    if len(shared) > 1:
        return obstacle(Reason.FAILED_SCHEDULING, message)
    [only] = shared.values()
    return replace(only, message=message)
