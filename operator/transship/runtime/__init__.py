"""Containers on one node: images, root file systems, volumes, bundles, runc and conmon.

Knows nothing of migrations.
"""
