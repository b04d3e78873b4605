"""Proving that breaking things costs no container: what to break, and how to see the harm.

Works on a lab from outside, as root on its machine, and asks no part of Transship but the API
server: what a node holds is read from the kernel. Used by tests/faults and by `bench soak`.
"""
