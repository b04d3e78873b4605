"""Nodes: which can be used, what is requested of them, and whose agent is gone."""
