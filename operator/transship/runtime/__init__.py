"""Containers on one node: images, file systems, volumes, bundles, runc, conmon and CRIU.

Knows the node it runs on and nothing else: no other agent, no Kubernetes. The agent is its caller.
"""
