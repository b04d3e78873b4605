"""Which node a placement belongs on: named by the user, or chosen here; chosen once, then kept.

A placement without targetNode stays where it is for as long as its node has the labels that are
asked for: a cordoned or busy node is no reason to move it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transship.api.placement import PlacementSpec
from transship.api.reasons import Reason
from transship.plan.nodes import Node, matches, named, unusable
from transship.plan.obstacles import Obstacle, obstacle


def wants(spec: PlacementSpec, node: str, *, nodes: Sequence[Node]) -> bool:
    """Whether a container that is on this node, or on its way there, is where the spec wants it."""
    if spec.target_node is not None:
        return spec.target_node == node
    if not spec.node_selector:
        return True
    known = named(nodes, node)
    return known is not None and matches(known, spec.node_selector)


def wanted_node(
    spec: PlacementSpec,
    *,
    nodes: Sequence[Node],
    present: str | None,
    failures: Mapping[str, int] | None = None,
) -> str | Obstacle:
    """The node to be on. failures: how often a move to a node failed for this very spec."""
    if spec.target_node is not None:
        return spec.target_node
    if present is not None and wants(spec, present, nodes=nodes):
        return present
    return _least_loaded(spec, nodes=nodes, failures=failures or {})


def entrance(name: str, *, nodes: Sequence[Node]) -> Obstacle | None:
    """What keeps a container from being placed on or moved to the node of this name."""
    node = named(nodes, name)
    if node is None:
        known = ", ".join(sorted(n.name for n in nodes)) or "none"
        return obstacle(
            Reason.NODE_NOT_FOUND, f'no NodeAgent is called "{name}"; there are: {known}'
        )
    return unusable(node)


def _least_loaded(
    spec: PlacementSpec, *, nodes: Sequence[Node], failures: Mapping[str, int]
) -> str | Obstacle:
    fitting = [node for node in nodes if matches(node, spec.node_selector)]
    usable = [node for node in fitting if unusable(node) is None]
    if usable:
        return min(usable, key=lambda n: (failures.get(n.name, 0), n.load, n.name)).name
    if not fitting:
        asked = ", ".join(f"{key}={value}" for key, value in sorted(spec.node_selector.items()))
        what = f"no NodeAgent has the labels {asked}" if asked else "there is no NodeAgent"
        return obstacle(Reason.NO_NODE_MATCHES, what)
    why = "; ".join(found.message for node in fitting if (found := unusable(node)) is not None)
    return obstacle(Reason.NO_NODE_MATCHES, f"no fitting node can be used: {why}")
