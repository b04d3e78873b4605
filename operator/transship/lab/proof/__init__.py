"""Tests of the invariants under faults: fault injection, workloads, checks, soak and benchmark.

The checks read the kernel and the API server; they never ask an agent or the operator. Nothing here
may be imported by the control plane, the nodes or the images of a lab.
"""
