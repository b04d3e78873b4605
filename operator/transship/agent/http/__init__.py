"""The agent's HTTPS service: routes, access control, log streaming and metrics.

No work is done here: handlers call the containers, the migration roles and the node's facts.
"""
