"""The node's service: it owns the containers of its node, alone, and keeps what it promised in a journal.

Knows its own node and the peers of its migrations. Never imports the controller, and never asks the
Kubernetes API for anything that a running container or a handover waits for.
"""
