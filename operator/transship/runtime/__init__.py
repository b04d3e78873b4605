"""Containers on one node: images, root file systems, volumes, bundles, runc and conmon.

`containers.Runtime` is the interface for the agent. Nothing here may know migrations or CRIU.
"""
