"""Nodes as the operator sees them: which can be used, and whose agent has fallen silent."""
