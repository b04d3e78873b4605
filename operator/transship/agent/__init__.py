"""The node's service: it alone owns the containers of its node, and journals what it promised.

Knows its own node and the peers of its migrations. Never imports the controller, and never asks the
Kubernetes API for anything that a running container or a handover waits for.
"""
