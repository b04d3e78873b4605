"""Generates crds/, docs/api.md and the admission policy from the models.

`python -m transship.api.crd.generate` writes them. Only this package of `api` writes files, and no
program imports it at run time.
"""
