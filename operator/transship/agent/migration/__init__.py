"""Moves of containers to and from this node, and what both sides of a move share."""
