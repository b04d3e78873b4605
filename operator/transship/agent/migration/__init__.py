"""Moves of containers to and from this node: the two roles, and what both of them need.

Nothing here decides whether a container is moved, or where to: the operator does.
"""
