"""The operator: kopf watches, one loop per object observes, decides, acts and writes the status.

It holds no state of its own. It never imports the agent or anything that works on a node.
"""
