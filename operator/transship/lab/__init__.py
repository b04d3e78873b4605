"""A whole cluster on one machine: control plane, registry, nodes, network, and fault injection.

A lab's directory alone tells what the lab has created, so `down` works after a crash at any point.
The operator and the agents may not import anything from here.
"""
