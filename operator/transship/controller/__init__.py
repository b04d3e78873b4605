"""The operator: kopf watches, and one loop per object observes, decides and acts.

The process keeps no state of its own that matters. Nothing here may import the agent or what works
on a node.
"""
