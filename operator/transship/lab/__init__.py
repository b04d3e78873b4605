"""A whole cluster on one machine: control plane, registry, nodes, their network, and faults.

Everything that a lab makes is found again from its directory alone, so that `down` works after a
crash at any point. Nothing here may be imported by what runs on a real node.
"""
