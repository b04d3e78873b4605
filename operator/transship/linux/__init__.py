"""Interfaces of the Linux kernel as small modules: cgroups, freezer, ptrace, /proc, userfaultfd.

Each is about the kernel and knows no container, no CRIU and no Kubernetes.
"""
