"""A container's memory on its way: how much there is, how it is copied, when it is handed over.

`convergence`, `prediction` and `rounds` are pure. Files and CRIU's own images are others' subjects.
"""
