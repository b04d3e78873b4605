"""Interfaces of the Linux kernel, one per module: cgroups, freezer, ptrace, /proc, userfaultfd.

Nothing here may know containers, CRIU or Kubernetes.
"""
